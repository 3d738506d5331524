package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Words of linux/xfrm.h that neither x/sys/unix nor netlink/nl has.
const (
	xfrmModeTunnel  = 1 // XFRM_MODE_TUNNEL
	xfrmPolicySub   = 1 // XFRM_POLICY_TYPE_SUB
	xfrmActionAllow = 0 // XFRM_POLICY_ALLOW
	aeadHeader      = 64 + 4 + 4
	esnHeader       = 6 * 4
)

// aead is AES-GCM with a tag of 16 bytes (RFC 4106), as the kernel calls it.
const (
	aead    = "rfc4106(gcm(aes))"
	aeadTag = 128 // bits
)

// Direction says which packets a Policy is for: XFRM_POLICY_*.
type Direction uint8

// The directions: packets to the node itself, packets that leave it, and those
// that it forwards after they have come in.
const (
	In Direction = iota
	Out
	Forward
)

func (d Direction) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	case Forward:
		return "fwd"
	}
	return fmt.Sprintf("direction %d", uint8(d))
}

// SA is a security association of IPsec for one direction between two nodes:
// ESP in tunnel mode (RFC 4303) with AES-GCM (RFC 4106), extended sequence
// numbers, and no end.
type SA struct {
	// Src and Dst are the tunnel's ends.
	Src, Dst netip.Addr
	// SPI tells the receiver's associations apart; ReqID ties it to policies.
	SPI, ReqID uint32
	// Key is the AES key with 4 bytes of salt behind it.
	Key []byte
	// Window is how many packets may overtake each other.
	Window uint32
}

func (s SA) String() string {
	return fmt.Sprintf("src %s dst %s proto esp spi %#08x", s.Src, s.Dst, s.SPI)
}

// SAState is an association as the kernel describes it.
type SAState struct {
	SA
	// Other names, in ip(8)'s words, in what it is not as AddSA makes one.
	Other string
}

// Policy says that packets of a selector must be in ESP, in a tunnel: those
// without an association are dropped.
type Policy struct {
	Dir Direction
	// Src and Dst select by the inner addresses.
	Src, Dst netip.Prefix
	// TunnelSrc and TunnelDst are the tunnel's ends, ReqID that of its
	// associations.
	TunnelSrc, TunnelDst netip.Addr
	ReqID                uint32
	// Priority decides between policies that both match: the lowest wins.
	Priority uint32
}

func (p Policy) String() string { return fmt.Sprintf("src %s dst %s dir %s", p.Src, p.Dst, p.Dir) }

// PolicyState is a policy as the kernel describes it.
type PolicyState struct {
	Policy
	// Other names in what it is not as SetPolicy makes one.
	Other string
}

// AddSA adds an association; one of the same Dst and SPI is EEXIST.
func (b *Batch) AddSA(s SA) {
	info := nl.XfrmUsersaInfo{Reqid: s.ReqID, Family: unix.AF_INET, Mode: xfrmModeTunnel, Flags: nl.XFRM_STATE_ESN}
	info.Sel.Family = unix.AF_INET
	info.Id = nl.XfrmId{Daddr: xfrmAddress(s.Dst), Spi: nl.Swap32(s.SPI), Proto: unix.IPPROTO_ESP}
	info.Saddr = xfrmAddress(s.Src)
	info.Lft = unlimited()
	b.begin(uint16(nl.XFRM_MSG_NEWSA), exclusiveCreation, info.Serialize(), func() string { return "xfrm state add " + s.String() })
	b.attr(nl.XFRMA_ALG_AEAD, aeadAlgorithm(s.Key))
	esn := make([]byte, esnHeader+s.Window/8)
	binary.NativeEndian.PutUint32(esn, s.Window/32)
	binary.NativeEndian.PutUint32(esn[20:], s.Window)
	b.attr(nl.XFRMA_REPLAY_ESN_VAL, esn)
	b.end()
}

// DelSA deletes the association of s's Dst and SPI.
func (b *Batch) DelSA(s SA) {
	id := nl.XfrmUsersaId{Daddr: xfrmAddress(s.Dst), Spi: nl.Swap32(s.SPI), Family: unix.AF_INET, Proto: unix.IPPROTO_ESP}
	b.begin(uint16(nl.XFRM_MSG_DELSA), 0, id.Serialize(), func() string { return "xfrm state delete " + s.String() })
	b.end()
}

// SetPolicy adds a policy, or replaces the one of the same selector and
// direction.
func (b *Batch) SetPolicy(p Policy) {
	info := nl.XfrmUserpolicyInfo{Sel: selector(p), Lft: unlimited(), Priority: p.Priority, Dir: uint8(p.Dir), Action: xfrmActionAllow}
	tmpl := nl.XfrmUserTmpl{
		XfrmId: nl.XfrmId{Daddr: xfrmAddress(p.TunnelDst), Proto: unix.IPPROTO_ESP}, Saddr: xfrmAddress(p.TunnelSrc),
		Family: unix.AF_INET, Reqid: p.ReqID, Mode: xfrmModeTunnel,
		Aalgos: ^uint32(0), Ealgos: ^uint32(0), Calgos: ^uint32(0),
	}
	b.begin(uint16(nl.XFRM_MSG_UPDPOLICY), unix.NLM_F_CREATE|unix.NLM_F_REPLACE, info.Serialize(), func() string { return "xfrm policy update " + p.String() })
	b.attr(nl.XFRMA_TMPL, tmpl.Serialize())
	b.end()
}

// DelPolicy deletes the policy of p's selector and direction.
func (b *Batch) DelPolicy(p Policy) {
	id := nl.XfrmUserpolicyId{Sel: selector(p), Dir: uint8(p.Dir)}
	b.begin(uint16(nl.XFRM_MSG_DELPOLICY), 0, id.Serialize(), func() string { return "xfrm policy delete " + p.String() })
	b.end()
}

// SAs returns every association of IPv4.
func (c *Conn) SAs() ([]SAState, error) {
	var all []SAState
	ask := nl.XfrmUsersaInfo{Family: unix.AF_INET}
	err := c.dump("IPsec states", func(b *Batch) {
		b.begin(uint16(nl.XFRM_MSG_GETSA), unix.NLM_F_DUMP, ask.Serialize(), nil)
	}, func() { all = nil }, func(m Message) error {
		s, ok, err := m.sa()
		if ok {
			all = append(all, s)
		}
		return err
	})
	return all, err
}

// Policies returns every policy of IPv4 that is not of a socket.
func (c *Conn) Policies() ([]PolicyState, error) {
	var all []PolicyState
	ask := nl.XfrmUserpolicyInfo{}
	err := c.dump("IPsec policies", func(b *Batch) {
		b.begin(uint16(nl.XFRM_MSG_GETPOLICY), unix.NLM_F_DUMP, ask.Serialize(), nil)
	}, func() { all = nil }, func(m Message) error {
		p, ok, err := m.policy()
		if ok {
			all = append(all, p)
		}
		return err
	})
	return all, err
}

// sa reads a message of type XFRM_MSG_NEWSA; false for one of another family,
// and for one that the kernel made while it waits for a key.
func (m Message) sa() (SAState, bool, error) {
	if len(m.Body) < nl.SizeofXfrmUsersaInfo {
		return SAState{}, false, fmt.Errorf("read IPsec state: %w", errTruncated)
	}
	info := nl.DeserializeXfrmUsersaInfo(m.Body)
	if info.Family != unix.AF_INET || info.Id.Spi == 0 {
		return SAState{}, false, nil
	}
	s := SAState{SA: SA{Src: readXfrmAddress(info.Saddr), Dst: readXfrmAddress(info.Id.Daddr), SPI: nl.Swap32(info.Id.Spi), ReqID: info.Reqid}}
	var other []string
	if info.Id.Proto != unix.IPPROTO_ESP {
		other = append(other, fmt.Sprintf("proto %d", info.Id.Proto))
	}
	if info.Mode != xfrmModeTunnel {
		other = append(other, fmt.Sprintf("mode %d", info.Mode))
	}
	if info.Flags != nl.XFRM_STATE_ESN {
		other = append(other, fmt.Sprintf("flag %#x", info.Flags))
	}
	if limits := unlimited(); info.Lft != limits {
		other = append(other, "limit")
	}
	err := attrs(m.Body, nl.SizeofXfrmUsersaInfo, func(typ uint16, v []byte) {
		switch typ {
		case nl.XFRMA_ALG_AEAD:
			name, tag, key := readAEAD(v)
			s.Key = key
			if name != aead || tag != aeadTag {
				other = append(other, fmt.Sprintf("aead %s %d", name, tag))
			}
		case nl.XFRMA_REPLAY_ESN_VAL:
			if len(v) >= esnHeader {
				s.Window = binary.NativeEndian.Uint32(v[20:])
			}
		case nl.XFRMA_ALG_AUTH, nl.XFRMA_ALG_CRYPT, nl.XFRMA_ALG_COMP, nl.XFRMA_ENCAP, nl.XFRMA_MARK, nl.XFRMA_IF_ID:
			other = append(other, fmt.Sprintf("attribute %d", typ))
		}
	})
	s.Other = strings.Join(other, " ")
	return s, true, err
}

// policy reads a message of type XFRM_MSG_NEWPOLICY; false for one of another
// family or of the second table, of sub-policies.
func (m Message) policy() (PolicyState, bool, error) {
	if len(m.Body) < nl.SizeofXfrmUserpolicyInfo {
		return PolicyState{}, false, fmt.Errorf("read IPsec policy: %w", errTruncated)
	}
	info := nl.DeserializeXfrmUserpolicyInfo(m.Body)
	if info.Sel.Family != unix.AF_INET {
		return PolicyState{}, false, nil
	}
	p := PolicyState{Policy: Policy{
		Dir: Direction(info.Dir), Priority: info.Priority,
		Src: netip.PrefixFrom(readXfrmAddress(info.Sel.Saddr), int(info.Sel.PrefixlenS)),
		Dst: netip.PrefixFrom(readXfrmAddress(info.Sel.Daddr), int(info.Sel.PrefixlenD)),
	}}
	var other []string
	if sel := selector(p.Policy); info.Sel != sel {
		other = append(other, "selector")
	}
	if info.Action != xfrmActionAllow {
		other = append(other, "action block")
	}
	main, templates := true, 0
	err := attrs(m.Body, nl.SizeofXfrmUserpolicyInfo, func(typ uint16, v []byte) {
		switch typ {
		case nl.XFRMA_POLICY_TYPE:
			main = len(v) == 0 || v[0] != xfrmPolicySub
		case nl.XFRMA_TMPL:
			templates = len(v) / nl.SizeofXfrmUserTmpl
			if templates > 0 {
				other = append(other, p.readTemplate(v)...)
			}
		case nl.XFRMA_MARK, nl.XFRMA_IF_ID:
			other = append(other, fmt.Sprintf("attribute %d", typ))
		}
	})
	if templates != 1 {
		other = append(other, fmt.Sprintf("%d templates", templates))
	}
	p.Other = strings.Join(other, " ")
	return p, main, err
}

// readTemplate reads the first template, and names in what it is another than
// SetPolicy's.
func (p *PolicyState) readTemplate(v []byte) (other []string) {
	t := nl.DeserializeXfrmUserTmpl(v)
	p.TunnelSrc, p.TunnelDst, p.ReqID = readXfrmAddress(t.Saddr), readXfrmAddress(t.XfrmId.Daddr), t.Reqid
	if t.XfrmId.Proto != unix.IPPROTO_ESP || t.Mode != xfrmModeTunnel || t.XfrmId.Spi != 0 {
		other = append(other, fmt.Sprintf("tmpl proto %d mode %d spi %#x", t.XfrmId.Proto, t.Mode, nl.Swap32(t.XfrmId.Spi)))
	}
	if t.Optional != 0 {
		other = append(other, "level use")
	}
	return other
}

func selector(p Policy) nl.XfrmSelector {
	return nl.XfrmSelector{
		Family: unix.AF_INET,
		Saddr:  xfrmAddress(p.Src.Addr()), PrefixlenS: uint8(p.Src.Bits()),
		Daddr: xfrmAddress(p.Dst.Addr()), PrefixlenD: uint8(p.Dst.Bits()),
	}
}

// unlimited is a lifetime without an end.
func unlimited() nl.XfrmLifetimeCfg {
	return nl.XfrmLifetimeCfg{SoftByteLimit: nl.XFRM_INF, HardByteLimit: nl.XFRM_INF, SoftPacketLimit: nl.XFRM_INF, HardPacketLimit: nl.XFRM_INF}
}

// aeadAlgorithm is a struct xfrm_algo_aead.
func aeadAlgorithm(key []byte) []byte {
	v := make([]byte, aeadHeader, aeadHeader+len(key))
	copy(v, aead)
	binary.NativeEndian.PutUint32(v[64:], uint32(8*len(key)))
	binary.NativeEndian.PutUint32(v[68:], aeadTag)
	return append(v, key...)
}

func readAEAD(v []byte) (name string, tag uint32, key []byte) {
	if len(v) < aeadHeader {
		return "", 0, nil
	}
	bits := binary.NativeEndian.Uint32(v[64:])
	rest := v[aeadHeader:]
	return text(v[:64]), binary.NativeEndian.Uint32(v[68:]), append([]byte(nil), rest[:min(int(bits/8), len(rest))]...)
}

// xfrmAddress writes an IPv4 address, in the first of four words.
func xfrmAddress(a netip.Addr) nl.XfrmAddress {
	var x nl.XfrmAddress
	copy(x[:], a.AsSlice())
	return x
}

func readXfrmAddress(x nl.XfrmAddress) netip.Addr { return netip.AddrFrom4([4]byte(x[:4])) }
