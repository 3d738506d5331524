package oracle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Verb says how an entry differs.
type Verb string

// The verbs.
const (
	Missing Verb = "missing"
	Extra   Verb = "extra"
	Wrong   Verb = "wrong"
)

// Mark returns the sign that a line of a diff begins with: - for what is
// missing, + for what is extra, ~ for what is wrong.
func (v Verb) Mark() string {
	switch v {
	case Missing:
		return "-"
	case Extra:
		return "+"
	}
	return "~"
}

// Change is one attribute of an entry that is wrong.
type Change struct {
	Name string `json:"name"`
	Want string `json:"want,omitempty"`
	Have string `json:"have,omitempty"`
}

// String says what the attribute is, and what it ought to be.
func (c Change) String() string {
	switch {
	case c.Want == "":
		return fmt.Sprintf("%s is %s, and ought not to be there", c.Name, c.Have)
	case c.Have == "":
		return fmt.Sprintf("%s is not there, and ought to be %s", c.Name, c.Want)
	}
	return fmt.Sprintf("%s is %s, and ought to be %s", c.Name, c.Have, c.Want)
}

// Entry is one difference.
type Entry struct {
	Kind Kind `json:"kind"`
	Verb Verb `json:"verb"`
	// Node is the node that it is on, or whose lease it is; Pod is the pod
	// that it is in, if any.
	Node string `json:"node"`
	Pod  string `json:"pod,omitempty"`
	// Dev is the link that it belongs to, empty where it belongs to none.
	Dev string `json:"dev,omitempty"`
	// Peer is the node or pod for whose sake it ought to be there, and For
	// says what it is for, as "node-2's VTEP". An extra entry has neither.
	Peer string `json:"peer,omitempty"`
	For  string `json:"for,omitempty"`
	// Want and Have are what ought to be and what is, in the syntax of the
	// kind's tool: Want is empty for an extra entry, Have for a missing one.
	Want string `json:"want,omitempty"`
	Have string `json:"have,omitempty"`
	// Changes are the attributes of an entry that is wrong.
	Changes []Change `json:"changes,omitempty"`
	// Mend is a shell command that makes it right, to be run in Space; empty
	// where there is none of one line.
	Mend string `json:"mend,omitempty"`
}

// Space is the name of the namespace that the entry is in: its pod's, or else
// its node's.
func (e Entry) Space() string { return cmp.Or(e.Pod, e.Node) }

// String is the entry in one line, as a diff has it.
func (e Entry) String() string {
	line := e.Verb.Mark() + " " + e.Kind.Tool() + ": " + cmp.Or(e.Have, e.Want)
	for _, c := range e.Changes {
		line += "; " + c.String()
	}
	return line
}

// Change returns the change of an attribute, and whether there is one.
func (e Entry) Change(name string) (Change, bool) {
	i := slices.IndexFunc(e.Changes, func(c Change) bool { return c.Name == name })
	if i < 0 {
		return Change{}, false
	}
	return e.Changes[i], true
}

// Compare returns how what is found in a namespace differs from what is wanted.
// A found fact that nobody wants counts if owned says so. The entries have the
// order of the kinds; Node and Pod are the caller's to set.
func Compare(want, have []Fact, owned func(Fact) bool) []Entry {
	m := matching{want: want, have: have, met: make([]bool, len(want)), used: make([]bool, len(have))}
	m.pass(func(w, h Fact) bool { return sameID(w, h) && len(changes(w, h)) == 0 })
	m.pass(sameID)
	m.pass(func(w, h Fact) bool { return inPlace(w, h) && (w.ID == "" || owned(h)) })
	for i, w := range want {
		if !m.met[i] && !w.Optional {
			m.entries = append(m.entries, Entry{Kind: w.Kind, Verb: Missing, Dev: w.Dev, Peer: w.Peer, For: w.Purpose, Want: w.String(), Mend: mendMissing(w)})
		}
	}
	for i, h := range have {
		if !m.used[i] && owned(h) {
			m.entries = append(m.entries, Entry{Kind: h.Kind, Verb: Extra, Dev: h.Dev, Have: h.String(), Mend: mendExtra(h)})
		}
	}
	slices.SortStableFunc(m.entries, func(a, b Entry) int { return a.Kind.order() - b.Kind.order() })
	return m.entries
}

// matching pairs wanted facts with found ones.
type matching struct {
	want, have []Fact
	met, used  []bool
	entries    []Entry
}

// pass pairs what is left over, and notes the pairs that differ.
func (m *matching) pass(pair func(w, h Fact) bool) {
	index := map[Kind][]int{}
	for j, h := range m.have {
		if !m.used[j] {
			index[h.Kind] = append(index[h.Kind], j)
		}
	}
	for i, w := range m.want {
		if m.met[i] {
			continue
		}
		for _, j := range index[w.Kind] {
			if !m.used[j] && pair(w, m.have[j]) {
				m.met[i], m.used[j] = true, true
				m.note(w, m.have[j])
				break
			}
		}
	}
}

func (m *matching) note(w, h Fact) {
	c := changes(w, h)
	if len(c) == 0 {
		return
	}
	m.entries = append(m.entries, Entry{
		Kind: w.Kind, Verb: Wrong, Dev: w.Dev, Peer: w.Peer, For: w.Purpose,
		Want: w.String(), Have: h.only(w).String(), Changes: c, Mend: mendWrong(w, h, c),
	})
}

func sameID(w, h Fact) bool { return w.Kind == h.Kind && w.ID != "" && w.ID == h.ID }

func inPlace(w, h Fact) bool {
	return w.Kind == h.Kind && w.Alt != "" && w.Alt == h.Alt && !w.Optional
}

// changes returns the attributes of the wanted fact that the found one has not
// as they ought to be.
func changes(w, h Fact) []Change {
	var out []Change
	for _, x := range w.Fields {
		if v, _ := h.field(x.Name); v != x.Value && x.Value != unknown {
			out = append(out, Change{Name: x.Name, Want: x.Value, Have: v})
		}
	}
	return out
}

// Diff is how a lab differs from its plan.
type Diff struct {
	// APIVersion names the schema of the JSON form.
	APIVersion string `json:"apiVersion"`
	// Lab is the lab's name.
	Lab string `json:"lab"`
	// Compared are the nodes and pods that were looked at, and Facts is how
	// many entries ought to be there in all.
	Compared []string `json:"compared"`
	Facts    int      `json:"facts"`
	// Entries are the differences, by node and pod in the plan's order.
	Entries []Entry `json:"entries"`
	// Unread says what could not be read, and so was not compared.
	Unread []string `json:"unread,omitempty"`
}

// Same reports whether nothing differs.
func (d *Diff) Same() bool { return len(d.Entries) == 0 }

// In returns the entries of one node or pod.
func (d *Diff) In(space string) []Entry {
	var out []Entry
	for _, e := range d.Entries {
		if e.Space() == space {
			out = append(out, e)
		}
	}
	return out
}

// Summary is the whole in one line.
func (d *Diff) Summary() string {
	count := map[Verb]int{}
	spaces := map[string]bool{}
	for _, e := range d.Entries {
		count[e.Verb]++
		spaces[e.Space()] = true
	}
	if d.Same() {
		return fmt.Sprintf("no difference: %d entries on %s", d.Facts, plural(len(d.Compared), "namespace"))
	}
	var parts []string
	for _, v := range []Verb{Missing, Wrong, Extra} {
		if count[v] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[v], v))
		}
	}
	return fmt.Sprintf("%s on %d of %s: %s", plural(len(d.Entries), "difference"), len(spaces), plural(len(d.Compared), "namespace"), strings.Join(parts, ", "))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
