package topology

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder walks a YAML tree into a Spec by its json tags. It keeps every
// value's position, goes on after an error, and knows the field's own words
// for what it wanted.
type decoder struct {
	*report
	// throughAlias is set below an alias; copied counts the values there.
	throughAlias bool
	copied       int
	merging      map[*yaml.Node]bool
}

// maxCopied bounds what aliases may expand to, in values: a file of 1 MiB
// could otherwise name a trillion.
const maxCopied = 100_000

// decode fills the spec from the tree. It reports whether there is a spec to
// speak of: one whose aliases run away is not worth a look at its contents.
func decode(root *yaml.Node, spec *Spec, r *report) bool {
	d := &decoder{report: r, merging: map[*yaml.Node]bool{}}
	d.mapping(root, "", reflect.ValueOf(spec).Elem())
	if d.copied <= maxCopied {
		return true
	}
	r.errs = Errors{{File: r.source.file, Line: root.Line, Column: root.Column,
		Msg: fmt.Sprintf("the file's aliases expand to more than %d values; write out what is needed", maxCopied)}}
	return false
}

// value decodes one node of any kind into out.
func (d *decoder) value(n *yaml.Node, path string, out reflect.Value) {
	if d.throughAlias {
		if d.copied++; d.copied > maxCopied {
			return
		}
	}
	d.source.at[path] = position{n.Line, n.Column}
	if n.Kind == yaml.AliasNode {
		defer func(was bool) { d.throughAlias = was }(d.throughAlias)
		d.throughAlias = true
		n = n.Alias
	}
	if isNull(n) { // a key without a value is a key left out
		return
	}
	switch {
	case out.Type() == conflistType:
		d.conflist(n, path, out)
	case out.Kind() == reflect.Pointer:
		p := reflect.New(out.Type().Elem())
		d.value(n, path, p.Elem())
		if !d.source.bad[path] {
			out.Set(p)
		}
	case isScalar(out.Type()):
		d.scalar(n, path, out)
	case out.Kind() == reflect.Slice:
		d.sequence(n, path, out)
	default:
		d.mapping(n, path, out)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func isScalar(t reflect.Type) bool {
	_, known := wanted[t]
	return known || t.Kind() == reflect.String || t.Kind() == reflect.Int || t.Kind() == reflect.Bool
}

// fail files an error about the node at a path and marks the path bad.
func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	d.source.spoil(path)
	d.errs = append(d.errs, Error{File: d.source.file, Line: n.Line, Column: n.Column, Path: path, Msg: fmt.Sprintf(format, args...)})
}

func (d *decoder) sequence(n *yaml.Node, path string, out reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "is %s; a list belongs here, one item after each \"- \"", kindOf(n))
		return
	}
	out.Set(reflect.MakeSlice(out.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isNull(item) {
			d.fail(item, at, "is an empty item; fill it or remove it")
			continue
		}
		d.value(item, at, out.Index(i))
	}
}

func (d *decoder) mapping(n *yaml.Node, path string, out reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s; a mapping of keys belongs here", kindOf(n))
		return
	}
	keys, fields := keysOf(out.Type())
	pairs := d.pairs(n, path)
	given := map[string]bool{}
	for _, p := range pairs {
		given[p.key.Value] = true
	}
	for _, p := range pairs {
		at := join(path, p.key.Value)
		if i, known := fields[p.key.Value]; known {
			d.value(p.value, at, out.Field(i))
			continue
		}
		d.fail(p.key, at, "is not a key that is known here%s%s", didYouMean(p.key.Value, keys), keyList(p.key.Value, keys))
		if meant := Nearest(p.key.Value, keys); meant != "" && !given[meant] {
			d.source.spoil(join(path, meant))
		}
	}
	for _, k := range requiredOf(out.Type()) {
		at := join(path, k)
		if !given[k] && !d.source.bad[at] {
			d.fail(n, at, "is missing%s", hints[k])
		}
	}
}

// hints end the message about a missing key.
var hints = map[string]string{
	"apiVersion": "; write apiVersion: " + APIVersion,
	"kind":       "; write kind: " + Kind,
	"spec":       "; spec: {} is a master and two workers with two pods each",
	"cidr":       "; write a CIDR such as 172.16.1.0/24",
	"via":        "; write the address of the next hop",
	"node":       "; write the name of the node that the pod runs on",
	"interfaces": "; a router has one on each segment that it joins",
}

// keyList lists the known keys when no single one suggests itself.
func keyList(word string, keys []string) string {
	if Nearest(word, keys) != "" {
		return ""
	}
	return "; known are " + strings.Join(keys, ", ")
}

// pair is one key of a mapping with its value.
type pair struct{ key, value *yaml.Node }

// pairs returns the keys of a mapping, each once, those of merged mappings
// last ("<<", https://yaml.org/type/merge.html).
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	var own []pair
	var merged []*yaml.Node
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch first := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			d.fail(k, path, "has %s for a key; keys are words", kindOf(k))
		case k.ShortTag() == "!!merge":
			merged = append(merged, v)
		case first != nil:
			d.fail(k, join(path, k.Value), "is written twice; the first is on line %d: keep one", first.Line)
		default:
			seen[k.Value] = k
			own = append(own, pair{k, v})
		}
	}
	for _, m := range merged {
		for _, p := range d.merge(m, path) {
			if seen[p.key.Value] == nil {
				seen[p.key.Value] = p.key
				own = append(own, p)
			}
		}
	}
	return own
}

// merge returns the keys that the value of a merge key stands for.
func (d *decoder) merge(n *yaml.Node, path string) []pair {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.copied += len(n.Content); d.copied > maxCopied {
		return nil
	}
	if d.merging[n] {
		d.fail(n, path, "merges itself; an anchor cannot hold its own alias")
		return nil
	}
	d.merging[n] = true
	defer delete(d.merging, n)
	switch n.Kind {
	case yaml.MappingNode:
		return d.pairs(n, path)
	case yaml.SequenceNode:
		var all []pair
		for _, item := range n.Content {
			all = append(all, d.merge(item, path)...)
		}
		return all
	default:
		d.fail(n, path, "merges %s; \"<<\" takes the alias of a mapping", kindOf(n))
		return nil
	}
}

// wanted says what belongs into a field of each type that is one word of YAML.
var wanted = map[reflect.Type]string{
	reflect.TypeFor[string]():       "text",
	reflect.TypeFor[int]():          "a whole number",
	reflect.TypeFor[bool]():         "true or false",
	reflect.TypeFor[netip.Prefix](): "a CIDR such as 172.16.1.0/24 or fd00::/64",
	reflect.TypeFor[netip.Addr]():   "an IP address such as 172.16.1.8, without a prefix length,",
	reflect.TypeFor[MAC]():          "a unicast MAC address such as 02:00:5e:10:00:01",
}

// scalar decodes one word.
func (d *decoder) scalar(n *yaml.Node, path string, out reflect.Value) {
	wrong := func() { d.fail(n, path, "is %s; %s belongs here", kindOf(n), wanted[out.Type()]) }
	if n.Kind != yaml.ScalarNode {
		wrong()
		return
	}
	var err error
	switch to := out.Addr().Interface().(type) {
	case *string:
		if n.ShortTag() != "!!str" {
			d.fail(n, path, "is %s; text belongs here: put it in quotes", kindOf(n))
			return
		}
		*to = n.Value
	case *int:
		if n.ShortTag() != "!!int" {
			wrong()
			return
		}
		err = n.Decode(to)
	case *bool:
		if n.ShortTag() != "!!bool" {
			wrong()
			return
		}
		err = n.Decode(to)
	case *netip.Prefix:
		*to, err = netip.ParsePrefix(n.Value)
	case *netip.Addr:
		if *to, err = netip.ParseAddr(n.Value); err == nil && to.Zone() != "" {
			d.fail(n, path, "is %s, with a zone; write the address alone", show(n.Value))
		}
	case *MAC:
		if *to, err = ParseMAC(n.Value); err == nil && !to.IsUnicast() {
			wrong()
		}
	}
	if err != nil {
		wrong()
	}
}

// kindOf describes a node as a person would.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping of keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "the alias *" + n.Value
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + cut(n.Value)
	case "!!bool":
		return "the truth value " + n.Value
	case "!!null":
		return "nothing"
	default:
		return show(n.Value)
	}
}

// cut shortens a number that goes on for ever.
func cut(s string) string {
	if len(s) > 30 {
		return s[:30] + "…"
	}
	return s
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,60}$`)

// join appends a key to a path.
func join(path, key string) string {
	switch {
	case !plainKey.MatchString(key):
		return path + "[" + show(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

// keysOf returns the keys of a struct in order, and its fields by key.
func keysOf(t reflect.Type) (keys []string, fields map[string]int) {
	fields = map[string]int{}
	for i := range t.NumField() {
		if key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); key != "" {
			keys, fields[key] = append(keys, key), i
		}
	}
	return keys, fields
}

// requiredOf returns the keys that a struct cannot be without.
func requiredOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		if strings.HasPrefix(t.Field(i).Tag.Get("jsonschema"), "required") {
			key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			keys = append(keys, key)
		}
	}
	return keys
}
