package suite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Exemption is a check that an agent is declared to fail, and why. It turns a
// fail into exempt, and nothing into a pass.
type Exemption struct{ Check, Reason string }

// ParseExemptions reads a file of exemptions:
//
//	apiVersion: overlab/v1alpha1
//	kind: Exemptions
//	exemptions:
//	- {check: RS-05, reason: "flannel repairs nothing"}
//
// The error names all that is wrong with it, each as name:line:column. checks
// are those that there are.
func ParseExemptions(name string, text []byte, checks []Check) ([]Exemption, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &exemptionParser{name: name, checks: checks}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s:1:1: the file is empty; it takes apiVersion, kind and exemptions", name)
	}
	p.file(doc.Content[0])
	return p.out, errors.Join(p.errs...)
}

type exemptionParser struct {
	name   string
	checks []Check
	out    []Exemption
	errs   []error
}

func (p *exemptionParser) fail(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s:%d:%d: %s", p.name, n.Line, n.Column, fmt.Sprintf(format, args...)))
}

// keys returns a mapping's values, and refuses keys that it does not take and
// those that it lacks.
func (p *exemptionParser) keys(n *yaml.Node, takes ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		p.fail(n, "a mapping of %s belongs here", strings.Join(takes, ", "))
		return nil
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case !slices.Contains(takes, key.Value):
			p.fail(key, "there is no key %q; it takes %s", key.Value, strings.Join(takes, ", "))
		case out[key.Value] != nil:
			p.fail(key, "the key %q is there twice", key.Value)
		default:
			out[key.Value] = n.Content[i+1]
		}
	}
	for _, key := range takes {
		if out[key] == nil {
			p.fail(n, "the key %q is missing", key)
		}
	}
	return out
}

func (p *exemptionParser) file(n *yaml.Node) {
	keys := p.keys(n, "apiVersion", "kind", "exemptions")
	for key, want := range map[string]string{"apiVersion": "overlab/v1alpha1", "kind": "Exemptions"} {
		if v := keys[key]; v != nil && v.Value != want {
			p.fail(v, "%s is %q; this program reads %q", key, v.Value, want)
		}
	}
	list := keys["exemptions"]
	switch {
	case list == nil:
	case list.Kind != yaml.SequenceNode:
		p.fail(list, "a list of exemptions belongs here")
	default:
		for _, item := range list.Content {
			p.exemption(item)
		}
	}
}

func (p *exemptionParser) exemption(n *yaml.Node) {
	keys := p.keys(n, "check", "reason")
	check, reason := keys["check"], keys["reason"]
	if check == nil || reason == nil {
		return
	}
	if !slices.ContainsFunc(p.checks, func(c Check) bool { return c.ID == check.Value }) {
		p.fail(check, "there is no check %q", check.Value)
	}
	if slices.ContainsFunc(p.out, func(e Exemption) bool { return e.Check == check.Value }) {
		p.fail(check, "%s is there twice", check.Value)
	}
	if strings.TrimSpace(reason.Value) == "" {
		p.fail(reason, "an exemption needs a reason")
	}
	p.out = append(p.out, Exemption{check.Value, reason.Value})
}
