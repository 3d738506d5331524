package labs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// article is what an article's commands print, as article.txt has it; the
// format is explained at the head of 000-vxlan-walk/article.txt.
type article []*quote

// quote is one command of the article.
type quote struct {
	host string
	// command is the article's, run that of the exercise.
	command, run string
	reasons      []string
	// condition, if any, is a command on the host that fails where the kernel
	// cannot do what this one shows.
	condition string
	lines     []quoteLine
	line      int
}

// quoteLine is a line of output: sign is ' ' for both, '+' for the lab alone,
// '-' for the article alone.
type quoteLine struct {
	sign byte
	text string
}

// readArticle reads a lab's article.txt; nil if it has none.
func readArticle(l Lab) (article, error) {
	b, err := os.ReadFile(filepath.Join(l.Name, "article.txt"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseArticle(string(b))
}

func parseArticle(text string) (article, error) {
	var a article
	var q *quote
	for i, line := range strings.Split(text, "\n") {
		fail := func(why string) error { return fmt.Errorf("article.txt:%d: %s: %q", i+1, why, line) }
		if line == "" || line[0] == '#' {
			continue
		}
		rest, ok := strings.CutPrefix(line[1:], " ")
		if !ok {
			return nil, fail("no space after the sign")
		}
		if line[0] == '@' {
			q = &quote{host: rest, line: i + 1}
			a = append(a, q)
			continue
		}
		if q == nil {
			return nil, fail("no @ HOST before")
		}
		switch line[0] {
		case '$':
			q.command, q.run = rest, strings.TrimSpace(rest)
		case '>':
			q.run = rest
		case '^':
			q.condition = rest
		case '?':
			q.reasons = append(q.reasons, rest)
		case ' ', '+', '-':
			q.lines = append(q.lines, quoteLine{line[0], rest})
		default:
			return nil, fail("unknown sign")
		}
	}
	for _, q := range a {
		departs := q.run != strings.TrimSpace(q.command) || slices.ContainsFunc(q.lines, func(l quoteLine) bool { return l.sign != ' ' })
		switch {
		case q.command == "":
			return nil, fmt.Errorf("article.txt:%d: no command", q.line)
		case departs && len(q.reasons) == 0:
			return nil, fmt.Errorf("article.txt:%d: the lab departs from the article and no reason is given", q.line)
		case !departs && len(q.reasons) > 0:
			return nil, fmt.Errorf("article.txt:%d: a reason for nothing", q.line)
		}
	}
	return a, nil
}

// identifier stands, in article.txt, for something that the lab decides.
var identifier = regexp.MustCompile(`\b(SANDBOX|CONTAINER|VETH):([a-z0-9-]+)`)

// resolve puts the plan's identifiers in place.
func resolve(p *topology.Plan, s string) string {
	return identifier.ReplaceAllStringFunc(s, func(m string) string {
		f := identifier.FindStringSubmatch(m)
		pod := p.Pod(f[2])
		switch {
		case pod == nil:
			return m
		case f[1] == "SANDBOX":
			return pod.SandboxID[:12]
		case f[1] == "CONTAINER":
			return pod.ContainerID
		default:
			return pod.HostInterface
		}
	})
}

// ifindexFilter is the one command whose text holds an interface's number.
var ifindexFilter = regexp.MustCompile(`grep '\^\d+: '`)

// sameCommand compares an exercise's command with the quote's.
func sameCommand(p *topology.Plan, q *quote, s *step) bool {
	number := func(c string) string { return ifindexFilter.ReplaceAllString(c, "grep '^N: '") }
	return q.host == s.host && number(resolve(p, q.run)) == number(s.command)
}

// check compares every command of the article with what it printed in the
// exercise.
func (a article) check(t *testing.T, p *topology.Plan, c *comparison, e *exercise) {
	steps := e.steps
	for _, q := range a {
		i := slices.IndexFunc(steps, func(s *step) bool { return sameCommand(p, q, s) })
		if i < 0 {
			t.Errorf("article.txt:%d: the exercise does not run, in the article's order, on %s: %s", q.line, q.host, resolve(p, q.run))
			continue
		}
		q.check(t, p, c, steps[i])
		steps = steps[i+1:]
	}
}

func (q *quote) check(t *testing.T, p *topology.Plan, c *comparison, s *step) {
	var want []string
	for _, l := range q.lines {
		text := resolve(p, l.text)
		if l.sign != '-' {
			want = append(want, text)
		} else if strings.Contains(c.normalise(text), "MAC") {
			continue // it agrees with any line of its kind
		} else if slices.ContainsFunc(s.printed, func(got string) bool { return c.same(text, got) }) {
			t.Errorf("article.txt:%d: %s: the lab prints what article.txt says it does not: %s", q.line, q.run, text)
		}
	}
	if diff := c.diff(s.command, want, s.printed); diff != "" {
		t.Errorf("article.txt:%d: on %s, %s: the article prints -, the lab +:\n%s", q.line, q.host, s.command, diff)
	}
}

func TestParseArticle(t *testing.T) {
	a, err := parseArticle("# c\n\n@ n1\n$ ip r \n? why\n  a\n+ b\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 1 || a[0].host != "n1" || a[0].run != "ip r" || len(a[0].lines) != 2 {
		t.Errorf("parsed: %+v", a[0])
	}
	for _, bad := range []string{"$ x\n", "@ n1\n  a\n", "@ n1\n$ x\n+ unexplained\n", "@ n1\n$ x\n? reason for nothing\n  a\n", "@ n1\n$ x\n!a\n"} {
		if _, err := parseArticle(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}
