package report

import (
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

//go:embed page.html
var pageText string

// page is what the template shows.
type page struct {
	*suite.Results
	Overall  string
	Tiles    []tile
	Facts    []fact
	Failed   []*suite.Result
	Doubtful []*suite.Result
	Groups   []group
	Nodes    []placeRow
	Dumps    []dump
	// Leading are the attachments that show what broke, Attached the others.
	Leading, Attached []attached
	Contents          []content
}

type (
	tile struct {
		Verdict suite.Verdict
		Word    string
		Count   int
	}
	fact  struct{ Name, Value string }
	group struct {
		Name    string
		Results []*suite.Result
	}
	placeRow struct{ Node, Underlay, Subnet, Pods string }
	dump     struct {
		Name   string
		Taken  string
		Tables []table
	}
	table struct {
		Name, Command string
		Lines         []string
	}
	attached struct {
		Title, Says, Anchor string
		Lines               []textLine
		Image               template.URL
		Page                string
	}
	// textLine is a line of text, and what kind of one it is.
	textLine struct{ Class, Text string }
	content  struct{ Name, Anchor string }
)

// shownFindings is how many findings of a check are not folded away: at scale
// one fault shows in hundreds.
const shownFindings = 3

// HTML writes the report as one page that needs nothing else: what broke and the
// command that mends it, where a packet ends, and what failed come first; then
// every verdict with its evidence, the captured packets decoded and in bytes, and
// the dumps in the words of ip and bridge. It runs no script and loads nothing.
func HTML(w io.Writer, r *suite.Results) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"sentence": sentence, "others": others,
		"first": func(all []suite.Finding) []suite.Finding { return all[:min(len(all), shownFindings)] },
		"later": func(all []suite.Finding) []suite.Finding { return all[min(len(all), shownFindings):] },
		"label": label, "seconds": seconds, "join": strings.Join, "bytes": hex.Dump,
		"clock":  func(t time.Time) string { return t.Format("15:04:05.000000") },
		"anchor": func(id string) string { return strings.ReplaceAll(id, "/", "-") },
		"millis": func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) },
	}).Parse(pageText)
	if err == nil {
		err = t.Execute(w, newPage(r))
	}
	if err != nil {
		return fmt.Errorf("write HTML report: %w", err)
	}
	return nil
}

func newPage(r *suite.Results) *page {
	p := &page{Results: r, Overall: overall(r), Facts: facts(r), Nodes: places(r)}
	for _, v := range suite.Verdicts() {
		if n := r.Count(v); n > 0 {
			p.Tiles = append(p.Tiles, tile{v, summaryWord(v), n})
		}
	}
	for i := range r.Results {
		res := &r.Results[i]
		switch res.Verdict {
		case suite.Fail:
			p.Failed = append(p.Failed, res)
		case suite.Inconclusive:
			p.Doubtful = append(p.Doubtful, res)
		}
		name := groupOf(res.ID)
		if n := len(p.Groups); n == 0 || p.Groups[n-1].Name != name {
			p.Groups = append(p.Groups, group{Name: name})
		}
		g := &p.Groups[len(p.Groups)-1]
		g.Results = append(g.Results, res)
	}
	for _, name := range slices.Sorted(maps.Keys(r.States)) {
		p.Dumps = append(p.Dumps, newDump(r.States[name]))
	}
	for i, a := range r.Attachments {
		x := newAttached(a)
		x.Anchor = fmt.Sprintf("attached-%d", i+1)
		if a.Leads {
			p.Leading = append(p.Leading, x)
		} else {
			p.Attached = append(p.Attached, x)
		}
	}
	p.contents()
	return p
}

// contents lists what is on the page.
func (p *page) contents() {
	add := func(there bool, name, anchor string) {
		if there {
			p.Contents = append(p.Contents, content{name, anchor})
		}
	}
	for _, x := range p.Leading {
		add(true, x.Title, x.Anchor)
	}
	add(len(p.Failed) > 0, "What failed", "failed")
	add(len(p.Doubtful) > 0, "What could not be judged", "doubtful")
	for _, x := range p.Attached {
		add(true, x.Title, x.Anchor)
	}
	add(true, "Every check", "checks")
	add(len(p.Frames) > 0, "Frames", "frames")
	add(true, "What was judged", "judged")
	add(len(p.Dumps) > 0, "What the kernels held", "kernels")
}

// sentence begins with a capital, unless it begins with a name of the lab.
func sentence(s string) string {
	word, _, _ := strings.Cut(s, " ")
	if strings.ContainsAny(word, "-.0123456789") || word == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// others says how many causes there are besides the first.
func others(all []diagnose.Cause) string {
	if len(all) == 2 {
		return "One more cause"
	}
	return fmt.Sprintf("%d more causes", len(all)-1)
}

// overall is the report in one sentence.
func overall(r *suite.Results) string {
	failed, unsure := r.Count(suite.Fail), r.Count(suite.Inconclusive)
	s := "Everything that could be judged passed."
	switch {
	case failed == 1:
		s = "One check failed."
	case failed > 1:
		s = fmt.Sprintf("%d checks failed.", failed)
	case unsure > 0:
		s = "Nothing failed, but not everything could be judged."
	case r.Count(suite.Pass) == 0:
		s = "Nothing was judged."
	}
	if r.Interrupted {
		s += " The run was interrupted before its end."
	}
	return s
}

func facts(r *suite.Results) []fact {
	all := []fact{
		{"Lab", r.Lab}, {"Provider", r.Provider},
		{"Begun", r.Started.Format(time.RFC1123)}, {"Took", seconds(r.Took)},
	}
	if a := r.About; a != nil {
		agent := a.Agent.Name
		if a.Agent.Version != "" {
			agent += " " + a.Agent.Version
		}
		all = append(all, fact{"Agent", agent}, fact{"Agent's command", strings.Join(a.Agent.Command, " ")},
			fact{"Backend", a.Backend}, fact{"Overlay", a.Network},
			fact{"Nodes, pods", fmt.Sprintf("%d, %d", a.Nodes, a.Pods)},
			fact{"Kernel", fmt.Sprintf("%s, %s, %d processors", a.Kernel, a.Platform, a.Processors)},
			fact{"overlab", a.Overlab})
	}
	if n := r.Repeat; n != nil {
		all = append(all, fact{"Run", fmt.Sprintf("%d of %d, of which %d were not sound", n.Run, n.Runs, n.Unsound)})
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.Value == "" })
}

func places(r *suite.Results) []placeRow {
	if r.Plan == nil {
		return nil
	}
	var rows []placeRow
	for i := range r.Plan.Nodes {
		n := &r.Plan.Nodes[i]
		row := placeRow{Node: n.Name, Subnet: n.PodCIDR.String()}
		if up := n.Underlay(); up != nil {
			row.Underlay = up.Name + " " + up.Address.String()
		}
		var pods []string
		for _, pod := range r.Plan.PodsOn(n.Name) {
			pods = append(pods, pod.Name+" "+pod.Address.Addr().String())
		}
		row.Pods = strings.Join(pods, ", ")
		rows = append(rows, row)
	}
	return rows
}

func newDump(st *probe.State) dump {
	return dump{Name: st.Namespace, Taken: st.Taken.Format("15:04:05.000"), Tables: []table{
		{"Links", "ip -d addr", linkLines(st)},
		{"Routes", "ip route", lines(st.Routes)},
		{"Neighbours", "ip neigh", lines(st.Neighbours)},
		{"Forwarding entries", "bridge fdb", lines(st.FDB)},
		{"Rules", "ip rule", lines(st.Rules)},
	}}
}

func lines[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = x.String()
	}
	return out
}

func linkLines(st *probe.State) []string {
	var out []string
	for _, l := range st.Links {
		s := fmt.Sprintf("%d: %s", l.Index, l.Name)
		if l.Peer != 0 {
			s += fmt.Sprintf("@if%d", l.Peer)
		}
		s += fmt.Sprintf(": %s mtu %d state %s", l.Kind, l.MTU, strings.ToUpper(l.Oper))
		if m := st.LinkByIndex(l.Master); m != nil {
			s += " master " + m.Name
		}
		if !l.MAC.IsZero() {
			s += " link/ether " + l.MAC.String()
		}
		if v := l.VXLAN; v != nil {
			s += fmt.Sprintf(" vxlan id %d dstport %d", v.VNI, v.Port)
			if v.Local.IsValid() {
				s += " local " + v.Local.String()
			}
			if !v.Learning {
				s += " nolearning"
			}
		}
		for _, a := range l.Addresses {
			s += " " + a.String()
		}
		out = append(out, s)
	}
	return out
}

// newAttached shows what is not text in a frame of its own, in which nothing
// runs.
func newAttached(a suite.Attachment) attached {
	out := attached{Title: a.Title, Says: a.Says}
	switch a.Type {
	case "image/svg+xml":
		out.Image = template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString(a.Data))
	case "text/html":
		out.Page = string(a.Data)
	default:
		for line := range strings.Lines(string(a.Data)) {
			l := textLine{Text: strings.TrimRight(line, "\n")}
			if a.Type == "text/x-diff" {
				l.Class = diffClass(l.Text)
			}
			out.Lines = append(out.Lines, l)
		}
	}
	return out
}

// diffClass is the kind of a line that Diff wrote.
func diffClass(line string) string {
	switch {
	case strings.HasPrefix(line, "  "+oracle.Missing.Mark()+" "):
		return "lacks"
	case strings.HasPrefix(line, "  "+oracle.Extra.Mark()+" "):
		return "has"
	case strings.HasPrefix(line, "  "+oracle.Wrong.Mark()+" "):
		return "wrong"
	case line != "" && line[0] != ' ':
		return "place"
	}
	return ""
}
