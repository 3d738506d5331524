package trace

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// offsets in bytes of what the program reads.
type offsets struct {
	// Of struct sk_buff, and its size.
	size, dev, dst, head, data, tail, network int16
	// Of struct net_device, struct net and struct dst_entry.
	net, inode, ifindex, dstDev int32
}

// find asks the kernel where its fields are.
func find(kernel *btf.Spec) (*offsets, error) {
	o := &offsets{}
	for _, f := range []struct {
		in, path string
		short    *int16
		long     *int32
	}{
		{in: "sk_buff", path: "dev", short: &o.dev},
		{in: "sk_buff", path: "_skb_refdst", short: &o.dst},
		{in: "sk_buff", path: "head", short: &o.head},
		{in: "sk_buff", path: "data", short: &o.data},
		{in: "sk_buff", path: "tail", short: &o.tail},
		{in: "sk_buff", path: "network_header", short: &o.network},
		{in: "net_device", path: "nd_net.net", long: &o.net},
		{in: "net_device", path: "ifindex", long: &o.ifindex},
		{in: "net", path: "ns.inum", long: &o.inode},
		{in: "dst_entry", path: "dev", long: &o.dstDev},
	} {
		var s *btf.Struct
		if err := kernel.TypeByName(f.in, &s); err != nil {
			return nil, fmt.Errorf("find struct %s: %w", f.in, err)
		}
		if f.in == "sk_buff" {
			if s.Size > maxSKB {
				return nil, fmt.Errorf("the kernel's struct sk_buff has %d bytes, and %d are the most that is read", s.Size, maxSKB)
			}
			o.size = int16(s.Size)
		}
		at, ok := offset(s, strings.Split(f.path, "."))
		if !ok {
			return nil, fmt.Errorf("the kernel's struct %s has no field %s", f.in, f.path)
		}
		if f.short != nil {
			*f.short = int16(at)
		} else {
			*f.long = int32(at)
		}
	}
	return o, nil
}

// offset looks for a field, also in the unnamed structs and unions inside.
func offset(in btf.Type, path []string) (bytes uint32, ok bool) {
	var members []btf.Member
	switch t := btf.UnderlyingType(in).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		rest := path
		switch m.Name {
		case path[0]:
			if rest = path[1:]; len(rest) == 0 {
				return m.Offset.Bytes(), true
			}
		case "":
		default:
			continue
		}
		if at, ok := offset(m.Type, rest); ok {
			return m.Offset.Bytes() + at, true
		}
	}
	return 0, false
}
