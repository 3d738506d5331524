#!/bin/sh
# An agent that programs what a lease needs once, when the store tells of it, and
# repairs nothing. It takes flanneld's flags, and knows the backend vxlan alone.
set -eu
for flag; do
	case $flag in
	--etcd-endpoints=*) endpoints=${flag#*=} ;;
	--etcd-prefix=*) prefix=${flag#*=} ;;
	esac
done
store() { etcdctl --endpoints="$endpoints" "$@"; }
field() { printf '%s' "$2" | sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p'; }

# The node, its network and its subnet, which the lab has reserved.
eth0=$(ip -o -4 addr show eth0 | sed 's|.*inet \([0-9.]*\)/.*|\1|')
mtu=$(($(cat /sys/class/net/eth0/mtu) - 50))
network=$(field Network "$(store get "$prefix/config" --print-value-only)")
own=$(store get "$prefix/subnets/" --prefix | grep -B1 "\"PublicIP\":\"$eth0\"" | head -n1)
subnet=${own##*/}
address=${subnet%-*}

# The device, with the MAC address that it has or had.
ip link show flannel.1 >/dev/null 2>&1 ||
	ip link add flannel.1 mtu "$mtu" type vxlan id 1 local "$eth0" dev eth0 dstport 8472 nolearning
ip addr replace "$address/32" dev flannel.1
ip link set flannel.1 up
mac=$(cat /sys/class/net/flannel.1/address)
for direction in -s -d; do
	iptables -C FORWARD $direction "$network" -j ACCEPT 2>/dev/null || iptables -A FORWARD $direction "$network" -j ACCEPT
done

known_mac() { ip neigh show "$1" dev flannel.1 nud permanent | sed -n 's/.*lladdr \([^ ]*\).*/\1/p'; }
known_ip() { bridge fdb show dev flannel.1 | sed -n "s/^$1 dst \([^ ]*\) .*/\1/p"; }

serve() { # KEY VALUE
	to=${1##*/}
	at=${to%-*}
	peer=$(field PublicIP "$2")
	vtep=$(field VtepMAC "$2")
	old=$(known_mac "$at")
	if [ -z "$vtep" ] || [ "$peer" = "$eth0" ] || [ "$old $(known_ip "$vtep")" = "$vtep $peer" ]; then return; fi
	ip neigh replace "$at" lladdr "$vtep" dev flannel.1 nud permanent
	bridge fdb replace "$vtep" dev flannel.1 dst "$peer" self permanent
	ip route replace "$at/${to#*-}" via "$at" dev flannel.1 onlink
	if [ -n "$old" ] && [ "$old" != "$vtep" ]; then bridge fdb del "$old" dev flannel.1 dst "$(known_ip "$old")"; fi
}

forget() { # KEY
	to=${1##*/}
	at=${to%-*}
	old=$(known_mac "$at")
	if [ -z "$old" ]; then return; fi
	ip route del "$at/${to#*-}" dev flannel.1 || true
	bridge fdb del "$old" dev flannel.1 dst "$(known_ip "$old")" || true
	ip neigh del "$at" dev flannel.1 || true
}

# The watch is there when it tells of the node's own lease; what came before is
# in the list that is read then.
mkdir -p /run/flannel
rm -f /run/flannel/events
mkfifo /run/flannel/events
store watch "$prefix/subnets/" --prefix >/run/flannel/events &
exec 3</run/flannel/events
publish() {
	store put "$prefix/subnets/$subnet" '{"PublicIP":"'"$eth0"'","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"'"$mac"'"}}' >/dev/null
}
(while publish && sleep 0.2; do :; done) &
publisher=$!
while read -r verb && read -r key && read -r value; do
	if [ "${key##*/}" = "$subnet" ]; then break; fi
done <&3
kill "$publisher"
store get "$prefix/subnets/" --prefix | while read -r key && read -r value; do serve "$key" "$value"; done
printf 'FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%s\nFLANNEL_IPMASQ=false\n' \
	"$network" "${address%.*}.1/${subnet#*-}" "$mtu" >/run/flannel/.subnet.env
mv /run/flannel/.subnet.env /run/flannel/subnet.env

while read -r verb && read -r key && read -r value; do
	case $verb in
	PUT) serve "$key" "$value" ;;
	DELETE) forget "$key" ;;
	esac
done <&3
