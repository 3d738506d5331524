package oracle

import (
	"net/netip"

	"github.com/overlab/overlab/harness/lease"
)

func leaseID(subnet netip.Prefix) string { return subnet.Masked().String() }

// leased makes the fact of a lease that the store has.
func leased(l lease.Lease) Fact {
	f := Fact{Kind: KindLease, ID: leaseID(l.Subnet), Fields: []Field{
		bare("subnet", l.Subnet.String()), word("PublicIP", text(l.PublicIP)), word("BackendType", l.BackendType),
	}}
	if l.BackendType == "vxlan" {
		f = f.with(word("VNI", itoa(l.VNI))).with(word("VtepMAC", l.VtepMAC.String()))
	}
	if l.Subnet6.IsValid() {
		f = f.with(word("IPv6Subnet", l.Subnet6.String())).with(word("PublicIPv6", text(l.PublicIPv6)))
		if l.BackendType == "vxlan" {
			f = f.with(word("IPv6VtepMAC", l.VtepMAC6.String()))
		}
	}
	return f
}
