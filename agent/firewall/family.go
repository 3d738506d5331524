package firewall

import (
	"net/netip"

	nft "github.com/google/nftables"
)

// family is how an address family is spelled by iptables and by nftables.
type family struct {
	// save and restore are iptables' programs; tables is where the kernel lists
	// the tables of the legacy kind, under /proc/thread-self/net.
	save, restore, tables string
	// table is flannel's nftables table.
	table string
	nft   nft.TableFamily
	// Of an IP header (RFC 791, RFC 8200 section 3): where its addresses begin,
	// and how many bytes each has.
	src, dst, size uint32
	multicast      netip.Prefix
}

// word is the family's in nft(8).
func (f family) word() string {
	if f.nft == nft.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

var (
	ipv4 = family{
		save: "iptables-save", restore: "iptables-restore", tables: "ip_tables_names",
		table: "flannel-ipv4", nft: nft.TableFamilyIPv4,
		src: 12, dst: 16, size: 4, multicast: netip.MustParsePrefix("224.0.0.0/4"),
	}
	ipv6 = family{
		save: "ip6tables-save", restore: "ip6tables-restore", tables: "ip6_tables_names",
		table: "flannel-ipv6", nft: nft.TableFamilyIPv6,
		src: 8, dst: 24, size: 16, multicast: netip.MustParsePrefix("ff00::/8"),
	}
)
