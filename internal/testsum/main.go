// Command testsum reads the events of `go test -json` and prints a line a
// package, the whole output of what failed, and every test that was skipped
// with its reason, which go test itself keeps to itself. It exits with 1 if
// anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	ok, err := run(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
	// FailedBuild names the package whose build failed, on a package's fail.
	FailedBuild string
}

// name is the test that an event is of.
type name struct{ pkg, test string }

// run reads all events; it reports whether every test passed.
func run(r io.Reader, w io.Writer) (ok bool, err error) {
	output := map[name]*strings.Builder{}
	var passed, failed, skipped int
	var skips []string
	ok = true
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text()) // not an event: a word of the go command
			continue
		}
		n := name{e.Package, e.Test}
		switch e.Action {
		case "output":
			if output[n] == nil {
				output[n] = new(strings.Builder)
			}
			output[n].WriteString(e.Output)
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "build-fail":
			ok = false
		case "pass", "fail", "skip":
			text := ""
			if b := output[n]; b != nil {
				text = b.String()
				delete(output, n)
			}
			switch {
			case e.Test == "":
				line(w, e, text)
			case e.Action == "pass":
				passed++
			case e.Action == "skip":
				skipped++
				skips = append(skips, fmt.Sprintf("%s %s: %s", short(e.Package), e.Test, reason(text)))
			case e.Action == "fail":
				failed++
				fmt.Fprint(w, text)
			}
			ok = ok && e.Action != "fail"
		}
	}
	for _, s := range skips {
		fmt.Fprintln(w, "SKIPPED", s)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return ok, lines.Err()
}

// line prints a package's own end.
func line(w io.Writer, e event, text string) {
	switch {
	case e.Action == "pass":
		fmt.Fprintf(w, "ok    %-36s %6.1f s\n", short(e.Package), e.Elapsed)
	case e.Action == "fail":
		fmt.Fprint(w, text)
		fmt.Fprintf(w, "FAIL  %s\n", short(e.Package))
	}
}

// short leaves the module's name out.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/overlab/overlab/")
}

// reason is what a skipped test said.
func reason(text string) string {
	var said []string
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "===") && !strings.HasPrefix(l, "---") {
			if _, after, found := strings.Cut(l, ".go:"); found {
				_, l, _ = strings.Cut(after, ": ")
			}
			said = append(said, l)
		}
	}
	return strings.Join(said, " ")
}
