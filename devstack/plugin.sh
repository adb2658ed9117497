#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# DevStack plugin: the Cinder driver with an NFS server of its own, the agent
# and the Nova hooks where nova-compute runs.  Every phase may run again.

# Where the scripts of this project are installed.
function _assisted_bin {
    echo "${DEVSTACK_VENV:+$DEVSTACK_VENV/bin}" | grep . ||
        get_python_exec_prefix
}

function _assisted_drop_in {
    echo "$SYSTEMD_DIR/devstack@n-cpu.service.d"
}

# Whether the share is this machine's to serve.
function _assisted_serves {
    is_service_enabled c-vol && [[ -z "$ASSISTED_EXPORT" ]]
}

function assisted_pre_install {
    if is_fedora; then
        install_package nfs-utils
    elif _assisted_serves; then
        install_package nfs-common nfs-kernel-server
    else
        install_package nfs-common
    fi
}

function assisted_install {
    setup_develop "$ASSISTED_DIR" cinder,nova
    getent group "$ASSISTED_GROUP" >/dev/null ||
        sudo groupadd --system "$ASSISTED_GROUP"
    sudo usermod -a -G "$ASSISTED_GROUP" "$STACK_USER"
    if is_service_enabled n-cpu &&
        getent passwd "$ASSISTED_QEMU_USER" >/dev/null; then
        sudo usermod -a -G "$ASSISTED_GROUP" \
            "$ASSISTED_QEMU_USER"
    fi
    if _assisted_serves; then
        _assisted_export
    fi
}

# The set-group-ID bit gives every volume the group of the folder.
function _assisted_export {
    local squash=no_root_squash mode=0777
    if [[ "$ASSISTED_SECURE" == "True" ]]; then
        squash=root_squash mode=2770
    fi
    sudo install -d -m "$mode" -o "$STACK_USER" \
        -g "$ASSISTED_GROUP" "$ASSISTED_SHARE"
    sudo install -d -m 0755 "$(dirname "$ASSISTED_EXPORTS")"
    echo "$ASSISTED_SHARE" \
        "$ASSISTED_CLIENTS(rw,sync,no_subtree_check,$squash)" |
        sudo tee "$ASSISTED_EXPORTS" >/dev/null
    sudo exportfs -ra
}

function assisted_post_config {
    if ! is_service_enabled n-cpu; then
        return
    fi
    iniset "$NOVA_CPU_CONF" DEFAULT compute_driver assisted.LibvirtDriver
    _assisted_credentials
    _assisted_configure_agent
    _assisted_wrap_compute
}

# The hooks report to Cinder in Nova's own name and do not start without one.
function _assisted_credentials {
    iniset "$NOVA_CPU_CONF" cinder auth_type password
    iniset "$NOVA_CPU_CONF" cinder auth_url "$KEYSTONE_SERVICE_URI"
    iniset "$NOVA_CPU_CONF" cinder username nova
    iniset "$NOVA_CPU_CONF" cinder password "$SERVICE_PASSWORD"
    iniset "$NOVA_CPU_CONF" cinder project_name "$SERVICE_PROJECT_NAME"
    iniset "$NOVA_CPU_CONF" cinder user_domain_name "$SERVICE_DOMAIN_NAME"
    iniset "$NOVA_CPU_CONF" cinder project_domain_name "$SERVICE_DOMAIN_NAME"
}

function _assisted_configure_agent {
    sudo install -d -m 0755 -o "$STACK_USER" "$ASSISTED_CONF_DIR"
    sudo install -d -m 0700 -o "$STACK_USER" "$ASSISTED_STATE"
    touch "$ASSISTED_CONF"
    chmod 0600 "$ASSISTED_CONF"  # it holds a password
    iniset_rpc_backend assisted-snapshots "$ASSISTED_CONF"
    iniset "$ASSISTED_CONF" DEFAULT debug "$ENABLE_DEBUG_LOG_LEVEL"
    iniset "$ASSISTED_CONF" agent host "$(hostname)"
    iniset "$ASSISTED_CONF" agent state_dir \
        "$ASSISTED_STATE"
}

# DevStack starts nova-compute by its path.  A drop-in has systemd start the
# one with the hooks, and leaves the unit to DevStack.
function _assisted_wrap_compute {
    local drop_in
    drop_in=$(_assisted_drop_in)
    sudo install -d -m 0755 "$drop_in"
    sudo tee "$drop_in/assisted-snapshots.conf" >/dev/null <<UNIT
[Service]
ExecStart=
ExecStart=$(_assisted_bin)/nova-compute-assisted --config-file $NOVA_CPU_CONF
UNIT
    sudo systemctl daemon-reload
}

function assisted_extra {
    if is_service_enabled assisted-agent && is_service_enabled n-cpu; then
        run_process assisted-agent "$(_assisted_bin)/assisted-snapshot-agent \
--config-file $ASSISTED_CONF" "$LIBVIRT_GROUP"
    fi
}

function assisted_test_config {
    local feature
    for feature in snapshot backup clone volume_revert manage_volume \
        extend_attached_volume; do
        iniset "$TEMPEST_CONFIG" volume-feature-enabled "$feature" True
    done
    iniset "$TEMPEST_CONFIG" volume-feature-enabled manage_snapshot False
    iniset "$TEMPEST_CONFIG" volume storage_protocol nfs
}

function assisted_unstack {
    if is_service_enabled assisted-agent; then
        stop_process assisted-agent
    fi
    sudo rm -rf "$(_assisted_drop_in)"
    sudo systemctl daemon-reload
    if [[ -e "$ASSISTED_EXPORTS" ]]; then
        sudo rm -f "$ASSISTED_EXPORTS"
        sudo exportfs -ra
    fi
}

function assisted_clean {
    assisted_unstack
    sudo rm -rf "$ASSISTED_CONF_DIR" "$ASSISTED_STATE" \
        "$ASSISTED_SHARE"
    if getent group "$ASSISTED_GROUP" >/dev/null; then
        sudo groupdel "$ASSISTED_GROUP"
    fi
}

case "$1 ${2:-}" in
    "stack pre-install")
        assisted_pre_install
        ;;
    "stack install")
        echo_summary "Installing Assisted Snapshots"
        assisted_install
        ;;
    "stack post-config")
        echo_summary "Configuring Assisted Snapshots"
        assisted_post_config
        ;;
    "stack extra")
        echo_summary "Starting Assisted Snapshots"
        assisted_extra
        ;;
    "stack test-config")
        assisted_test_config
        ;;
    "unstack "*)
        assisted_unstack
        ;;
    "clean "*)
        assisted_clean
        ;;
esac
