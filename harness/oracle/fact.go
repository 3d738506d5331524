package oracle

import "strings"

// Kind is the table that a fact is of.
type Kind string

// The kinds, in the order in which a diff shows them: what a later one needs
// comes first.
const (
	KindLease      Kind = "lease"
	KindFile       Kind = "file"
	KindSysctl     Kind = "sysctl"
	KindLink       Kind = "link"
	KindAddress    Kind = "address"
	KindNeighbour  Kind = "neighbour"
	KindFDB        Kind = "fdb"
	KindWireGuard  Kind = "wireguard"
	KindRoute      Kind = "route"
	KindPolicy     Kind = "policy"
	KindXFRMState  Kind = "xfrm-state"
	KindXFRMPolicy Kind = "xfrm-policy"
	KindIPTables   Kind = "iptables"
	KindIP6Tables  Kind = "ip6tables"
	KindNFTables   Kind = "nftables"
)

// kinds are all of them, with the command that shows the table.
func kinds() []struct {
	kind Kind
	tool string
} {
	return []struct {
		kind Kind
		tool string
	}{
		{KindLease, "etcdctl get"},
		{KindFile, "cat " + subnetFile},
		{KindSysctl, "sysctl"},
		{KindLink, "ip link"},
		{KindAddress, "ip addr"},
		{KindNeighbour, "ip neigh"},
		{KindFDB, "bridge fdb"},
		{KindWireGuard, "wg"},
		{KindRoute, "ip route"},
		{KindPolicy, "ip rule"},
		{KindXFRMState, "ip xfrm state"},
		{KindXFRMPolicy, "ip xfrm policy"},
		{KindIPTables, "iptables-save"},
		{KindIP6Tables, "ip6tables-save"},
		{KindNFTables, "nft list ruleset"},
	}
}

// Tool returns the command that shows the kind's table, as "bridge fdb".
func (k Kind) Tool() string {
	for _, x := range kinds() {
		if x.kind == k {
			return x.tool
		}
	}
	return string(k)
}

// order returns the kind's place in a diff.
func (k Kind) order() int {
	for i, x := range kinds() {
		if x.kind == k {
			return i
		}
	}
	return len(kinds())
}

// unknown is the value of a wanted field that nobody knows and that is not
// judged, such as the MAC of a VTEP that does not exist.
const unknown = "?"

// Field is one attribute of a fact.
type Field struct {
	// Name is the tool's word for it, as "via".
	Name string `json:"name"`
	// Value is empty where the attribute is absent, or ought to be.
	Value string `json:"value,omitempty"`
	// bare says that the tool prints the value without the name.
	bare bool
}

// A Fact is one entry of a kernel table, a file or the store, in a form that
// does not depend on who made it or on which kernel: attributes that the
// overlay does not decide are left out, and words are those of ip(8) and
// bridge(8). A wanted fact and a found one are the same if all fields of the
// wanted one are.
type Fact struct {
	Kind Kind
	// ID tells the fact from all others of its kind in a namespace; it is
	// empty for a wanted fact whose name nobody knows, such as the FDB entry of
	// a VTEP without a lease.
	ID string
	// Alt, where set, is the name by which a wanted fact finds the one that is
	// in its place, when none has its ID.
	Alt    string
	Fields []Field
	// Dev is the link that the fact belongs to.
	Dev string
	// Peer is the node or pod for whose sake the fact is there, and Purpose
	// says in a few words what it is for.
	Peer, Purpose string
	// Optional facts need not be there, but if they are they must be right.
	Optional bool
}

// String returns the fact in the syntax of the kind's tool.
func (f Fact) String() string {
	var words []string
	for _, x := range f.Fields {
		switch {
		case x.Value == "":
		case x.bare:
			words = append(words, x.Value)
		default:
			words = append(words, x.Name+" "+x.Value)
		}
	}
	return strings.Join(words, " ")
}

// field returns the value of a field, and whether the fact has it.
func (f Fact) field(name string) (string, bool) {
	for _, x := range f.Fields {
		if x.Name == name {
			return x.Value, true
		}
	}
	return "", false
}

// with returns the fact with a field more.
func (f Fact) with(x Field) Fact {
	f.Fields = append(f.Fields[:len(f.Fields):len(f.Fields)], x)
	return f
}

// only returns the fact with the fields alone that another has.
func (f Fact) only(like Fact) Fact {
	var fields []Field
	for _, x := range f.Fields {
		if _, ok := like.field(x.Name); ok {
			fields = append(fields, x)
		}
	}
	f.Fields = fields
	return f
}

// word and bare make fields.
func word(name, value string) Field { return Field{Name: name, Value: value} }
func bare(name, value string) Field { return Field{Name: name, Value: value, bare: true} }

// flag is a bare field whose value is its name where it is set.
func flag(name string, set bool) Field {
	if set {
		return bare(name, name)
	}
	return bare(name, "")
}
