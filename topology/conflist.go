package topology

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ConflistSpec is a CNI network configuration list: the name of a file, or
// the list itself.
type ConflistSpec struct {
	// File is the name that the lab file gives, empty for a list of its own.
	File string
	// List is the list, with the types of encoding/json; nil for none.
	List map[string]any
}

var conflistType = reflect.TypeFor[ConflistSpec]()

// conflist decodes the key conflist: text is a file's name, a mapping is the
// list.
func (d *decoder) conflist(n *yaml.Node, path string, out reflect.Value) {
	var c ConflistSpec
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		c.File = n.Value
	case n.Kind == yaml.MappingNode:
		var doc any
		err := n.Decode(&doc)
		if err == nil {
			c.List, err = likeJSON(doc)
		}
		if err != nil {
			d.fail(n, path, "is no JSON object: %v", err)
			return
		}
		d.locate(n, path)
	default:
		d.fail(n, path, "is %s; the name of a file, or the list itself, belongs here", kindOf(n))
		return
	}
	out.Set(reflect.ValueOf(c))
}

// locate notes the position of every value below a node.
func (d *decoder) locate(n *yaml.Node, path string) {
	d.source.at[path] = position{n.Line, n.Column}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			d.locate(n.Content[i+1], join(path, n.Content[i].Value))
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			d.locate(item, at(path, i))
		}
	}
}

// likeJSON gives a value the types that it has when it is read from JSON.
func likeJSON(doc any) (list map[string]any, err error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return list, json.Unmarshal(data, &list)
}

// readConflist reads the file that the spec names, as seen from the lab
// file's folder; without a folder there is none to read from.
func readConflist(c *ConflistSpec, r *report) {
	const path = "spec.cni.conflist"
	if c.File == "" {
		return
	}
	file, ok := r.source.resolve(c.File)
	if !ok {
		r.add(path, "names the file %s, but this lab was not read from a folder of its own; write an absolute path, or the list itself", show(c.File))
		return
	}
	list, err := conflistFile(file)
	if err != nil {
		r.add(path, "%s cannot be read: %v", c.File, err)
		r.source.spoil(path)
		return
	}
	c.List = list
}

// conflistFile reads one list of at most MaxFileSize bytes.
func conflistFile(file string) (map[string]any, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize))
	if err != nil {
		return nil, err
	}
	var list map[string]any
	if err := json.Unmarshal(bytes.TrimSpace(data), &list); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	return list, nil
}

// resolve returns a path as seen from the lab file's folder.
func (s *source) resolve(path string) (string, bool) {
	switch {
	case filepath.IsAbs(path):
		return filepath.Clean(path), true
	case s.dir == "":
		return "", false
	}
	return filepath.Join(s.dir, path), true
}

// conflist settles the plugins that wire pods in place of the bundled one.
func (x *expansion) conflist() {
	const path = "spec.cni.conflist"
	s := &x.spec.CNI
	if s.Conflist.List == nil {
		if len(s.PluginDirs) > 0 && s.Conflist.File == "" && !x.badUnder(path) {
			x.add("spec.cni.pluginDirs", "are given without a conflist; without one the bundled plugin wires pods: write conflist too, or leave this out")
		}
		return
	}
	if x.plan.CNI.LegacyRecords {
		x.add("spec.cni.legacyRecords", "is a matter of the bundled plugin, and conflist names others; leave it out")
	}
	for i, dir := range s.PluginDirs {
		abs, ok := x.source.resolve(dir)
		if !ok || dir == "" {
			x.add(at("spec.cni.pluginDirs", i), "is %s; write an absolute path", show(dir))
			continue
		}
		x.plan.CNI.PluginDirs = append(x.plan.CNI.PluginDirs, abs)
	}
	x.checkConflist(path, s.Conflist.List)
	x.checkPlaceholders(path, s.Conflist.List)
	x.plan.CNI.Conflist = s.Conflist.List
}

// networkName is what the CNI specification allows (section 1,
// "Configuration format", key name).
var networkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.\-]*$`)

// checkConflist checks what every list has: a name, and plugins with a type.
func (x *expansion) checkConflist(path string, list map[string]any) {
	if name, _ := list["name"].(string); !networkName.MatchString(name) {
		x.add(path+".name", "is %s; write the network's name, letters, digits, hyphens, dots and underscores", show(fmt.Sprint(list["name"])))
	}
	if v, given := list["cniVersion"]; given {
		if _, text := v.(string); !text {
			x.add(path+".cniVersion", "is %v; write text such as \"1.0.0\"", v)
		}
	}
	plugins, _ := list["plugins"].([]any)
	if len(plugins) == 0 {
		x.add(path+".plugins", "names no plugin; write a list of them, each with a type")
	}
	for i, p := range plugins {
		conf, _ := p.(map[string]any)
		if t, _ := conf["type"].(string); t == "" || strings.Contains(t, "/") {
			x.add(at(path+".plugins", i)+".type", "is %s; write the name of the plugin's executable, without a folder", show(fmt.Sprint(conf["type"])))
		}
	}
}

// placeholders are what a list says in place of what differs from node to
// node. Those of PodCIDR are containerd's and kubenet's (conf_template).
var placeholders = map[string]func(*Plan, *Node) string{
	"{{.PodCIDR}}":  func(_ *Plan, n *Node) string { return written(n.PodCIDR) },
	"{{.PodCIDR6}}": func(_ *Plan, n *Node) string { return written(n.PodCIDR6) },
	"{{.Network}}":  func(p *Plan, _ *Node) string { return written(p.Network.Network) },
	"{{.Network6}}": func(p *Plan, _ *Node) string { return written(p.Network.IPv6Network) },
	"{{.MTU}}":      func(p *Plan, n *Node) string { return strconv.Itoa(p.OverlayMTU(n)) },
}

func written(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

var placeholder = regexp.MustCompile(`\{\{.*?\}\}`)

func (x *expansion) checkPlaceholders(path string, v any) {
	switch v := v.(type) {
	case string:
		for _, found := range placeholder.FindAllString(v, -1) {
			if placeholders[found] == nil {
				x.add(path, "holds %s, which stands for nothing; known are %s", show(found), strings.Join(slices.Sorted(maps.Keys(placeholders)), ", "))
			}
		}
	case []any:
		for i, e := range v {
			x.checkPlaceholders(at(path, i), e)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			x.checkPlaceholders(join(path, k), v[k])
		}
	}
}

// ConflistOn is the plan's configuration list as it is on a node, in indented
// JSON, or nil where the bundled plugin wires pods.
func (p *Plan) ConflistOn(n *Node) ([]byte, error) {
	if p.CNI.Conflist == nil {
		return nil, nil
	}
	data, err := json.MarshalIndent(p.fill(p.CNI.Conflist, n), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the CNI configuration of node %s: %w", n.Name, err)
	}
	return append(data, '\n'), nil
}

// fill puts a node's values in place of placeholders. The MTU, where it is a
// text of its own, is a number.
func (p *Plan) fill(v any, n *Node) any {
	switch v := v.(type) {
	case string:
		filled := placeholder.ReplaceAllStringFunc(v, func(s string) string { return placeholders[s](p, n) })
		if v == "{{.MTU}}" {
			return json.Number(filled)
		}
		return filled
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = p.fill(e, n)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = p.fill(e, n)
		}
		return out
	default:
		return v
	}
}
