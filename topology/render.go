package topology

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// tableWidth is the width in columns that WriteTable keeps to.
const tableWidth = 80

// WriteJSON writes the plan as indented JSON.
func WriteJSON(w io.Writer, p *Plan) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p.Masked()); err != nil {
		return fmt.Errorf("writing the plan as JSON: %w", err)
	}
	return nil
}

// WriteYAML writes the plan as YAML, with the keys and the order of its JSON.
func WriteYAML(w io.Writer, p *Plan) error {
	data, err := json.Marshal(p.Masked())
	if err != nil {
		return fmt.Errorf("writing the plan as YAML: %w", err)
	}
	var doc yaml.Node // JSON is YAML in flow style
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("writing the plan as YAML: %w", err)
	}
	blockStyle(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("writing the plan as YAML: %w", err)
	}
	return enc.Close()
}

// blockStyle turns flow into block style. Words that YAML 1.1 takes for truth
// values, such as the mode off, stay in quotes.
func blockStyle(n *yaml.Node) {
	switch strings.ToLower(n.Value) {
	case "y", "n", "yes", "no", "on", "off":
	default:
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// WriteTable writes the plan for people, at most 80 columns wide: nodes,
// their interfaces, routers if any, and pods. Longer names are cut.
func WriteTable(w io.Writer, p *Plan) error {
	b := bufio.NewWriter(w)
	for _, line := range []string{
		fmt.Sprintf("lab %s, provider %s", p.Name, p.Provider),
		fmt.Sprintf("network %s%s, a /%d a node", p.Network.Network, and(p.Network.IPv6Network), p.Network.SubnetLen),
		"backend " + p.Network.Backend.describe(),
		p.Store.describe(),
	} {
		fmt.Fprintln(b, clip(line, tableWidth))
	}
	if p.ServiceCIDR.IsValid() {
		fmt.Fprintf(b, "services %s\n", p.ServiceCIDR)
	}
	if p.Runtime == RuntimeContainerd {
		fmt.Fprintln(b, "pods are containers of containerd")
	}
	b.WriteByte('\n')
	p.nodeTable().write(b)
	b.WriteByte('\n')
	p.interfaceTable().write(b)
	if len(p.Pods) > 0 {
		b.WriteByte('\n')
		p.podTable().write(b)
	}
	return b.Flush()
}

func and(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return " and " + p.String()
}

// describe says where the leases live.
func (s Store) describe() string {
	switch s.Type {
	case "":
		return "no store that is known"
	case "kubernetes":
		return "store kubernetes on " + s.Node
	}
	return fmt.Sprintf("store %s on %s, port %d, prefix %s", s.Type, s.Node, s.Port, s.Prefix)
}

// describe names the backend with what tells two of a type apart.
func (b Backend) describe() string {
	s := b.Type
	if b.VNI != 0 {
		s += ", VNI " + strconv.Itoa(b.VNI)
	}
	if b.Port != 0 {
		s += ", port " + strconv.Itoa(b.Port)
	}
	return s
}

func (p *Plan) nodeTable() table {
	t := table{{"NODE", "ROLE", "PUBLIC IP", "POD CIDR", "OVERLAY MTU"}}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		t = append(t, []string{n.Name, string(n.Role), n.PublicIP().String(), both(n.PodCIDR, n.PodCIDR6), strconv.Itoa(p.OverlayMTU(n))})
	}
	return t
}

func (p *Plan) interfaceTable() table {
	t := table{{"MACHINE", "INTERFACE", "SEGMENT", "ADDRESS", "MAC", "MTU"}}
	add := func(machine string, interfaces []Interface) {
		for _, i := range interfaces {
			t = append(t, []string{machine, i.Name, i.Segment, both(i.Address, i.Address6), i.MAC.String(), strconv.Itoa(i.MTU)})
		}
	}
	for _, r := range p.Routers {
		add(r.Name, r.Interfaces)
	}
	for _, n := range p.Nodes {
		add(n.Name, n.Interfaces)
	}
	return t
}

func (p *Plan) podTable() table {
	t := table{{"POD", "NODE", "ADDRESS", "MAC", "ON THE NODE"}}
	for _, x := range p.Pods {
		t = append(t, []string{x.Name, x.Node, both(x.Address, x.Address6), x.MAC.String(), x.HostInterface})
	}
	return t
}

// both joins the addresses of the two families; the second may be none.
func both(v4, v6 netip.Prefix) string {
	if !v6.IsValid() {
		return v4.String()
	}
	return v4.String() + "\n" + v6.String()
}

// table is rows of cells, the heads first. A cell of two lines makes a row of
// two.
type table [][]string

const columnGap = 2

// write aligns the columns, taking from the widest until the table fits.
func (t table) write(w io.Writer) {
	rows := t.lines()
	widths := make([]int, len(t[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for total(widths) > tableWidth {
		widest := 0
		for i := range widths {
			if widths[i] > widths[widest] {
				widest = i
			}
		}
		widths[widest]--
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&b, "%-*s", widths[i]+columnGap, clip(cell, widths[i]))
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// lines gives every line of a cell a row of its own.
func (t table) lines() table {
	var out table
	for _, row := range t {
		second := make([]string, len(row))
		first := make([]string, len(row))
		for i, cell := range row {
			first[i], second[i], _ = strings.Cut(cell, "\n")
		}
		out = append(out, first)
		if strings.Join(second, "") != "" {
			out = append(out, second)
		}
	}
	return out
}

func total(widths []int) int {
	sum := -columnGap
	for _, w := range widths {
		sum += w + columnGap
	}
	return sum
}

// clip cuts text to a width in columns, and shows that it did.
func clip(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}
