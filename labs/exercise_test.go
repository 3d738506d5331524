package labs

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// An exercise is a README.md cut at its console blocks:
//
//	```console
//	root@k8s-node1:~# ip route
//	default via 172.16.1.1 dev ens3
//	```
//
// The prompt names the node or pod that a command runs on. A block of
// "console background" holds one command, which is left running while the
// commands of the next block run.
type exercise struct {
	// text is what stands between the steps: text[i] before steps[i], and one
	// more after the last.
	text  []string
	steps []*step
}

// step is one command with its output.
type step struct {
	prompt, host, command string
	// shown is the output in the file, printed that of the run.
	shown, printed []string
	background     bool
	// impossible tells that this machine's kernel cannot do what it shows.
	impossible bool
	line       int
}

var prompt = regexp.MustCompile(`^([a-z]+@([a-z0-9-]+):\S*[#$]) (.+)$`)

// parseExercise reads a README.md.
func parseExercise(readme string) (*exercise, error) {
	e := &exercise{text: []string{""}}
	var in, background bool
	var current *step
	for i, line := range strings.SplitAfter(readme, "\n") {
		trimmed := strings.TrimRight(line, "\n")
		switch {
		case !in && strings.HasPrefix(trimmed, "```console"):
			in, current = true, nil
			background = trimmed == "```console background"
			if !background && trimmed != "```console" {
				return nil, fmt.Errorf("line %d: unknown kind of block %q", i+1, trimmed)
			}
		case in && trimmed == "```":
			if current == nil {
				return nil, fmt.Errorf("line %d: the block has no command", i+1)
			}
			in = false
		case in:
			m := prompt.FindStringSubmatch(trimmed)
			if m == nil && current == nil {
				return nil, fmt.Errorf("line %d: the block does not begin with a prompt: %q", i+1, trimmed)
			}
			if m == nil {
				current.shown = append(current.shown, trimmed)
				continue
			}
			if background && current != nil {
				return nil, fmt.Errorf("line %d: a background block has one command", i+1)
			}
			current = &step{prompt: m[1], host: m[2], command: m[3], background: background, line: i + 1}
			e.steps = append(e.steps, current)
			e.text = append(e.text, "")
			continue
		}
		e.text[len(e.text)-1] += line
	}
	if in {
		return nil, fmt.Errorf("the last block does not end")
	}
	return e, nil
}

// String is the README.md with what the run printed.
func (e *exercise) String() string {
	var b strings.Builder
	for i, text := range e.text {
		b.WriteString(text)
		if i < len(e.steps) {
			s := e.steps[i]
			fmt.Fprintf(&b, "%s %s\n", s.prompt, s.command)
			for _, line := range s.printed {
				b.WriteString(strings.TrimRight(line, " ") + "\n")
			}
		}
	}
	return b.String()
}

func TestParseExercise(t *testing.T) {
	const readme = "# Title\n\n```sh\noverlab up 000\n```\n\n```console\nroot@n1:~# ip route\na\nb\nroot@p-1:/# true\n```\n\ntext\n\n```console background\nroot@n1:~# tcpdump\nold\n```\nend\n"
	e, err := parseExercise(readme)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.steps) != 3 {
		t.Fatalf("%d steps, want 3", len(e.steps))
	}
	if s := e.steps[0]; s.host != "n1" || s.command != "ip route" || strings.Join(s.shown, ",") != "a,b" || s.line != 8 {
		t.Errorf("first step: %+v", s)
	}
	if s := e.steps[2]; !s.background || s.command != "tcpdump" {
		t.Errorf("last step: %+v", s)
	}
	for _, s := range e.steps {
		s.printed = s.shown
	}
	if got := e.String(); got != readme {
		t.Errorf("written back:\n%s", got)
	}
	for _, bad := range []string{"```console\nno prompt\n```\n", "```console\n```\n", "```console\nroot@n:~# x\n", "```console later\n"} {
		if _, err := parseExercise(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}
