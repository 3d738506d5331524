package portmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table's chains.
const (
	chainPrerouting = "prerouting" // what arrives at one of the node's own addresses
	chainOutput     = "output"     // what the node sends to one of them
	chainHostPorts  = "hostports"  // to both: a rule a mapping
	chainMasquerade = "masquerade" // a rule or two a pod
	chainLocalnet   = "localnet"   // keeps pods from 127.0.0.0/8, see setLocalnet
)

// rule is one rule of the table.
type rule struct {
	chain string
	// comment is the owner, then, of a mapping, the port; or what a rule of
	// the table's own is for.
	comment string
	exprs   []expr.Any
	// read is the rule as the kernel gave it.
	read *nft.Rule
}

// common tells whether a rule serves all of the table's mappings.
func (r rule) common() bool { return r.chain != chainHostPorts && r.chain != chainMasquerade }

// owner reads whom a rule that is not common is for.
func (r rule) owner() Owner {
	id, rest, _ := strings.Cut(r.comment, " ")
	ifname, _, _ := strings.Cut(rest, " ")
	return Owner{id, ifname}
}

// port reads the port of a mapping's rule.
func (r rule) port() (port, bool) {
	if r.chain != chainHostPorts {
		return port{}, false
	}
	p, err := parsePort(r.comment[strings.LastIndexByte(r.comment, ' ')+1:])
	return p, err == nil
}

// chains are the table's, in the order in which they can be made.
func chains(t *nft.Table) []*nft.Chain {
	policy := nft.ChainPolicyAccept
	return []*nft.Chain{
		{Name: chainHostPorts, Table: t},
		{Name: chainPrerouting, Table: t, Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookPrerouting, Priority: nft.ChainPriorityNATDest, Policy: &policy},
		{Name: chainOutput, Table: t, Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookOutput, Priority: nft.ChainPriorityNATDest, Policy: &policy},
		{Name: chainMasquerade, Table: t, Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookPostrouting, Priority: nft.ChainPriorityNATSource, Policy: &policy},
		{Name: chainLocalnet, Table: t, Type: nft.ChainTypeFilter, Hooknum: nft.ChainHookPrerouting, Priority: nft.ChainPriorityRaw, Policy: &policy},
	}
}

// commonRules are those of the table itself.
func (t *Table) commonRules() []rule {
	toHostPorts := []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
		&expr.Verdict{Kind: expr.VerdictJump, Chain: chainHostPorts},
	}
	ifname := make([]byte, unix.IFNAMSIZ)
	copy(ifname, t.bridge)
	fromPods := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname},
	}
	return []rule{
		{chain: chainPrerouting, comment: "to the node", exprs: toHostPorts},
		{chain: chainOutput, comment: "from the node to itself", exprs: toHostPorts},
		{chain: chainLocalnet, comment: "the node's loopback is its own", exprs: join(fromPods, family(loopback), address(dst, loopback),
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})},
	}
}

// rules are those of one pod.
func (t Target) rules() ([]rule, error) {
	var rules []rule
	for _, pod := range t.Addresses {
		led := false
		for _, m := range t.Mappings {
			host, err := m.port()
			if err != nil {
				return nil, err
			}
			if host.ip.IsValid() && host.ip.Is4() != pod.Addr().Is4() {
				continue
			}
			led = true
			rules = append(rules, rule{chain: chainHostPorts, comment: t.Owner.String() + " " + host.String(), exprs: join(
				family(pod), address(dst, single(host.ip)), l4(host), dnat(pod.Addr(), m.ContainerPort))})
		}
		if !led {
			continue
		}
		// The pod answers a neighbour past the node, and 127.0.0.1 to itself.
		senders := []netip.Prefix{pod.Masked()}
		if pod.Addr().Is4() {
			senders = append(senders, loopback)
		}
		for _, sender := range senders {
			rules = append(rules, rule{chain: chainMasquerade, comment: t.Owner.String(), exprs: join(
				family(pod), address(src, sender), address(dst, single(pod.Addr())), wasMapped(), []expr.Any{&expr.Masq{}})})
		}
	}
	for _, r := range rules {
		if len(r.comment) > longestComment {
			return nil, fmt.Errorf("the name of container %s is too long for a port mapping: the kernel keeps %d bytes of %q", t.ContainerID, longestComment, r.comment)
		}
	}
	return rules, nil
}

// longestComment is what a rule's user data have room for besides a type, a
// length and a NUL (NFT_USERDATA_MAXLEN, uapi/linux/netfilter/nf_tables.h).
const longestComment = 256 - 3

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func single(ip netip.Addr) netip.Prefix {
	if !ip.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(ip, ip.BitLen())
}

func join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// family matches packets of an address's IP version.
func family(p netip.Prefix) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{nfproto(p.Addr())}},
	}
}

func nfproto(ip netip.Addr) byte {
	if ip.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// field is an address's place in the IP header (RFC 791, RFC 8200).
type field struct{ v4, v6 uint32 }

var (
	src = field{12, 8}
	dst = field{16, 24}
)

// address matches one of a packet's addresses; an invalid prefix matches all.
func address(f field, p netip.Prefix) []expr.Any {
	if !p.IsValid() {
		return nil
	}
	bits := p.Addr().BitLen()
	size, offset := uint32(bits/8), f.v6
	if p.Addr().Is4() {
		offset = f.v4
	}
	out := []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}}
	if p.Bits() < bits {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: bytes.Clone(net.CIDRMask(p.Bits(), bits)), Xor: make([]byte, size)})
	}
	return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

// l4 matches a protocol and its destination port.
func l4(p port) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocols[p.protocol]}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(p.number))},
	}
}

// dnat sends a packet to the pod. What the kernel fills in is spelled out, so
// that a rule that was read equals one that was written.
func dnat(pod netip.Addr, port int) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: pod.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, uint16(port))},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfproto(pod)),
			RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 2, Specified: true},
	}
}

// wasMapped matches what dnat has sent (IPS_DST_NAT,
// uapi/linux/netfilter/nf_conntrack_common.h).
func wasMapped() []expr.Any {
	bit := binary.NativeEndian.AppendUint32(nil, 1<<5)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bit, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}
