# SPDX-License-Identifier: Apache-2.0
#
# What DevStack provides to a plugin, as its documentation says, on a folder
# of the test: $ROOT.  Functions that act on the machine write what they were
# called with to $ROOT/calls; so do the programs in $ROOT/bin.

set -o errexit -o nounset -o pipefail

DEST=$ROOT/dest
DATA_DIR=$ROOT/data
STACK_USER=$(id -un)
HOST_IP=192.0.2.1
LIBVIRT_GROUP=libvirt
KEYSTONE_SERVICE_URI=http://keystone/identity
SERVICE_PASSWORD=secret
SERVICE_PROJECT_NAME=service
SERVICE_DOMAIN_NAME=Default
SYSTEMD_DIR=$ROOT/systemd
CINDER_CONF_DIR=$ROOT/cinder
CINDER_CONF=$CINDER_CONF_DIR/cinder.conf
NOVA_CPU_CONF=$ROOT/nova-cpu.conf
TEMPEST_CONFIG=$ROOT/tempest.conf
ENABLE_DEBUG_LOG_LEVEL=True
DEVSTACK_VENV=$ROOT/venv
mkdir -p "$DEST" "$DATA_DIR" "$SYSTEMD_DIR" "$CINDER_CONF_DIR"

function called {
    echo "$*" >>"$ROOT/calls"
}

function define_plugin { called define_plugin "$@"; }
function echo_summary { :; }
function install_package { called install_package "$@"; }
function setup_develop { called setup_develop "$@"; }
function run_process { called run_process "$@"; }
function stop_process { called stop_process "$@"; }
function get_python_exec_prefix { echo /usr/local/bin; }
function is_fedora { [[ "${DISTRO:-debian}" == fedora ]]; }

function trueorfalse {
    local default=$1 value=${!2:-}
    case "${value:-$default}" in
        [Tt]rue|1|[Yy]es) echo True ;;
        *) echo False ;;
    esac
}

function enable_service {
    local service
    for service in "$@"; do
        is_service_enabled "$service" || SERVICES+=" $service"
    done
}

function is_service_enabled {
    local service
    for service in "$@"; do
        [[ " $SERVICES " == *" $service "* ]] && return 0
    done
    return 1
}

# One file, section and option after another; the last value counts.
function iniset {
    python3 - "$@" <<'PYTHON'
import configparser
import sys
path, section, option, value = sys.argv[1:5]
parser = configparser.RawConfigParser(default_section='')
parser.read(path)
if not parser.has_section(section):
    parser.add_section(section)
parser.set(section, option, value)
with open(path, 'w') as file:
    parser.write(file)
PYTHON
}

function iniset_rpc_backend {
    iniset "$2" DEFAULT transport_url rabbit://stackrabbit:secret@broker/
}

source "$PLUGIN/override-defaults"
source "$PLUGIN/settings"
# As lib/cinder does when it configures the backends.
if [[ "$*" == "stack post-config" ]]; then
    for be in ${CINDER_ENABLED_BACKENDS//,/ }; do
        configure_cinder_backend_"${be%%:*}" "${be##*:}"
    done
fi
source "$PLUGIN/plugin.sh" "$@"
