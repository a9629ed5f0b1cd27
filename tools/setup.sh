#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Install what the demo and the tests need, on a Debian 12 machine, as root: distribution packages by
# bindep, and the virtual environment .venv. For the tests with servers others are named: each has
# an environment of its own, .venv-NAME, or is unpacked under .cache. ironic is there with MariaDB, and
# ironic-snapshot is the one of integrations/ironic; oldest are the oldest Ironic and agent, and lowest the lower
# bounds of what is required. What is there already is not done again.
#
# Usage: tools/setup.sh [glance] [keystone] [ironic] [ironic-snapshot] [nova] [tempest] [oldest] [lowest]
#            [ganesha]

set -euo pipefail

cd "$(dirname "$0")/.."
# What decides over how the project itself is installed.
PROJECT="setup.cfg setup.py pyproject.toml requirements.txt"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore DEBIAN_FRONTEND=noninteractive

function say {
    echo "setup: $*" >&2
}

function install_packages {
    say "installing the distribution packages $*"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# make_venv DIRECTORY: an empty virtual environment
function make_venv {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages python3-venv
    fi
    say "making the virtual environment $1"
    python3 -m venv "$1"
}

# is_newer STAMP FILE...: whether a FILE was changed after the STAMP was made
function is_newer {
    local stamp=$1 file
    shift
    [[ -e $stamp ]] || return 0
    for file; do
        [[ $file -nt $stamp ]] && return 0
    done
    return 1
}

function set_up_packages {
    local missing
    is_newer .venv/.packages bindep.txt || return 0
    [[ -x .venv/bin/bindep ]] || .venv/bin/pip install -q bindep
    # It fails if one is missing, and if it fails itself: then it does so again.
    if ! missing=$(.venv/bin/bindep --brief test); then
        # shellcheck disable=SC2086
        install_packages $missing
        .venv/bin/bindep --brief test
    fi
    touch .venv/.packages
}

# Unpacked and not installed: its package would start a server on port 80. The libraries that it
# needs are those of the base system, openssl and apache2-bin.
function set_up_nginx {
    local where=.cache/nginx
    [[ ! -x $where/usr/sbin/nginx ]] || return 0
    say "unpacking nginx into $where"
    rm -rf $where
    mkdir -p $where
    apt-get update -qq
    (cd $where && apt-get download -qq -o APT::Sandbox::User=root nginx)
    dpkg -x $where/nginx_*.deb $where
    rm $where/nginx_*.deb
}

function set_up_project {
    local requirements=tests/lab/agent-requirements.txt
    # shellcheck disable=SC2086
    is_newer .venv/.project $requirements $PROJECT || return 0
    say "installing the project and the agent into .venv (about a minute)"
    .venv/bin/pip install -q -r $requirements -e '.[agent,conductor,test]'
    touch .venv/.project
}

# Unpacked as nginx is: its packages would start servers, rpcbind among them. The other libraries
# that it needs come with the packages of bindep.txt.
function set_up_ganesha {
    local where=.cache/ganesha package
    [[ ! -x $where/usr/bin/ganesha.nfsd ]] || return 0
    say "unpacking nfs-ganesha into $where"
    rm -rf $where
    mkdir -p $where
    apt-get update -qq
    (cd $where && apt-get download -qq -o APT::Sandbox::User=root \
        nfs-ganesha nfs-ganesha-vfs libntirpc4.3 libnfsidmap1 libwbclient0)
    for package in $where/*.deb; do
        dpkg -x "$package" $where
    done
    rm $where/*.deb
}

# For conductors that share their nodes. Unpacked and not installed: its package would remove a MySQL
# that is there. The libraries that it needs come with qemu-utils and apache2-bin.
function set_up_mariadb {
    local where=.cache/mariadb
    [[ ! -x $where/usr/sbin/mariadbd ]] || return 0
    say "unpacking MariaDB into $where"
    rm -rf $where
    mkdir -p $where
    apt-get update -qq
    (cd $where && apt-get download -qq -o APT::Sandbox::User=root mariadb-server-core)
    dpkg -x $where/mariadb-server-core_*.deb $where
    rm $where/mariadb-server-core_*.deb
}

# set_up_venv NAME FILES ARGUMENT...: .venv-NAME, with tests/lab/NAME-requirements.txt and ARGUMENTs for
# pip; anew when those requirements, or one of FILES, have changed
function set_up_venv {
    local name=$1 venv=.venv-$1 requirements=tests/lab/$1-requirements.txt files
    read -r -a files <<<"$2"
    shift 2
    is_newer "$venv/.project" "$requirements" "${files[@]}" || return 0
    [[ -d $venv ]] || make_venv "$venv"
    say "installing what $requirements says into $venv (about a minute)"
    "$venv/bin/pip" install -q -r "$requirements" "$@"
    touch "$venv/.project"
}

# files_of DIRECTORY: its files, in one line
function files_of {
    git ls-files -- "$1" | tr '\n' ' '
}

# As on a conductor: the project, and not the agent, beside Ironic and its client.
function set_up_ironic {
    set_up_venv ironic "$PROJECT" -e '.[conductor]'
    set_up_mariadb
}

# Ironic with the specification's own states and verb.
function set_up_ironic_snapshot {
    local venv=.venv-ironic-snapshot requirements=tests/lab/ironic-requirements.txt files
    read -r -a files <<<"$PROJECT $(files_of integrations/ironic)"
    is_newer $venv/.project $requirements "${files[@]}" || return 0
    say "building Ironic with the changes of integrations/ironic in $venv (about a minute)"
    integrations/ironic/build $venv -r $requirements -r integrations/ironic/test-requirements.txt \
        -e '.[conductor]'
    touch $venv/.project
}

function set_up_oldest {
    set_up_venv ironic-oldest "$PROJECT" -e '.[conductor]'
    set_up_venv agent-oldest "$PROJECT" -e '.[agent]'
}

# As on the host of a compute service. Its driver lies among Nova's own files.
function set_up_nova {
    set_up_venv nova "$PROJECT $(files_of integrations/nova)" -e '.[conductor]' ./integrations/nova
    # What is left of a build would be part of the next one.
    rm -rf integrations/nova/build integrations/nova/*.egg-info
}

# Without the agent, whose own requirements are higher, and which has set_up_oldest.
function set_up_lowest {
    local venv=.venv-lowest requirements=tests/lab/lowest-requirements.txt
    # shellcheck disable=SC2086
    is_newer $venv/.project $requirements $PROJECT || return 0
    [[ -d $venv ]] || make_venv $venv
    say "installing the lower bounds of what is required into $venv (about a minute)"
    {
        sed -n 's/>=/==/p' requirements.txt
        sed -n '/^conductor =/,/^test =/s/^ *\(.*\)>=/\1==/p' setup.cfg
    } >$venv/bounds.txt
    $venv/bin/pip install -q -c $venv/bounds.txt -r $requirements -e '.[conductor]'
    touch $venv/.project
}

if [[ $EUID -ne 0 ]]; then
    say "loop devices, mounts and namespaces need root: run this as root"
    exit 1
fi
[[ -x .venv/bin/pip ]] || make_venv .venv
set_up_packages
set_up_nginx
set_up_project
for server; do
    case $server in
        glance | keystone) set_up_venv "$server" '' ;;
        ironic) set_up_ironic ;;
        ironic-snapshot) set_up_ironic_snapshot ;;
        nova) set_up_nova ;;
        tempest) set_up_venv tempest "$(files_of integrations/tempest)" -e integrations/tempest ;;
        oldest) set_up_oldest ;;
        lowest) set_up_lowest ;;
        ganesha) set_up_ganesha ;;
        *)
            say "there is no $server to set up: glance, keystone, ironic, ironic-snapshot, nova, tempest, \
oldest, lowest, ganesha"
            exit 1
            ;;
    esac
done
