package probe

import (
	"context"
	"fmt"
	"net/netip"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// serviceTable is the nftables table that holds a service; it is no one else's.
const serviceTable = "overlab-service"

// service is an address that leads to a pod's.
type service struct {
	Address netip.AddrPort `json:"address"`
	Pod     netip.AddrPort `json:"pod"`
}

// Service makes the namespace translate what passes to a TCP service address
// into a pod's, as kube-proxy does, until Unservice. A second one takes the
// place of the first.
func (s *Session) Service(ctx context.Context, address, pod netip.AddrPort) error {
	return tell(ctx, s, kindService, service{address, pod}, func() error {
		err := s.nftables(ctx, func(c *nft.Conn, t *nft.Table) {
			c.AddTable(t)
			chain := c.AddChain(&nft.Chain{
				Name: "prerouting", Table: t, Type: nft.ChainTypeNAT,
				Hooknum: nft.ChainHookPrerouting, Priority: nft.ChainPriorityNATDest,
			})
			c.AddRule(&nft.Rule{Table: t, Chain: chain, Exprs: translate(address, pod)})
		})
		if err != nil {
			return fmt.Errorf("make %s lead to %s in %s: %w", address, pod, s.name, err)
		}
		return nil
	})
}

// Unservice ends what Service began; that there is none is no error.
func (s *Session) Unservice(ctx context.Context) error {
	return tell(ctx, s, kindUnservice, struct{}{}, func() error {
		if err := s.nftables(ctx, func(*nft.Conn, *nft.Table) {}); err != nil {
			return fmt.Errorf("remove the service of %s: %w", s.name, err)
		}
		return nil
	})
}

// nftables replaces the table by what fill makes of it, in one transaction.
func (s *Session) nftables(ctx context.Context, fill func(*nft.Conn, *nft.Table)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.local.Do(func() error {
		c, err := nft.New()
		if err != nil {
			return err
		}
		t := &nft.Table{Name: serviceTable, Family: nft.TableFamilyIPv4}
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
		fill(c, t)
		return c.Flush()
	})
}

// translate is "ip daddr S tcp dport P dnat to A:Q".
func translate(service, pod netip.AddrPort) []expr.Any {
	address := service.Addr().As4()
	to := pod.Addr().As4()
	equal := func(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }
	const dstAddress, dstPort = 16, 2
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: dstAddress, Len: 4}, equal(address[:]),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{unix.IPPROTO_TCP}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: dstPort, Len: 2}, equal(networkPort(service.Port())),
		&expr.Immediate{Register: 1, Data: to[:]},
		&expr.Immediate{Register: 2, Data: networkPort(pod.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}
}

func networkPort(p uint16) []byte { return []byte{byte(p >> 8), byte(p)} }
