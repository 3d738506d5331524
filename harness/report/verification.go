package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// Verification writes what became of a report's verdicts.
func Verification(w io.Writer, v *suite.Verification, o TextOptions) error {
	o.defaults()
	p := &printer{w: bufio.NewWriter(w), o: o}
	for _, c := range v.Checks {
		p.verified(&c)
	}
	for _, f := range append(slices.Clone(v.Damaged), v.WrongFrames...) {
		p.wrapped(0, 2, f, nil)
	}
	p.line("")
	p.line(verificationSummary(v))
	return p.w.Flush()
}

// standingWord is a standing's word in the text.
func standingWord(s suite.Standing) string {
	return strings.ReplaceAll(strings.ToUpper(string(s[:1]))+string(s[1:]), "-", " ")
}

// standingNoun is its word in the sum.
func standingNoun(s suite.Standing) string {
	if s == suite.Holds {
		return "hold"
	}
	return strings.ReplaceAll(string(s), "-", " ")
}

func (p *printer) verified(c *suite.Verified) {
	const width = 16
	word, verdict := standingWord(c.Standing), suite.Inconclusive
	switch c.Standing {
	case suite.Holds:
		verdict = suite.Pass
	case suite.Contradicted:
		verdict = suite.Fail
	}
	p.line(p.color(verdict, word) + strings.Repeat(" ", max(1, width-len(word))) + pad(c.ID, idWidth) + " " + label(c.Reported))
	at := width + idWidth + 1
	if c.Standing == suite.Contradicted {
		p.wrapped(at, at+2, fmt.Sprintf("the evidence says %s", label(c.Replayed)), nil)
	}
	if c.Reason != "" {
		p.wrapped(at, at+2, c.Reason, p.dim)
	}
	for i, f := range c.Findings {
		if i == p.o.Findings {
			p.wrapped(at, at, fmt.Sprintf("and %d more", len(c.Findings)-i), nil)
			break
		}
		p.wrapped(at, at+2, f.String(), nil)
	}
}

func verificationSummary(v *suite.Verification) string {
	var parts []string
	for _, s := range suite.Standings() {
		if n := v.Count(s); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, standingNoun(s)))
		}
	}
	if len(parts) == 0 {
		return "the report has no verdicts"
	}
	frames := ""
	if v.Frames > 0 {
		frames = fmt.Sprintf("; %d of %d frames as reported", v.Frames-len(v.WrongFrames), v.Frames)
	}
	damaged := ""
	if n := len(v.Damaged); n > 0 {
		damaged = fmt.Sprintf("; %d files damaged", n)
		if n == 1 {
			damaged = "; 1 file damaged"
		}
	}
	return fmt.Sprintf("%d verdicts: %s%s%s", len(v.Checks), strings.Join(parts, ", "), frames, damaged)
}

// VerificationJSON writes it as one JSON document.
func VerificationJSON(w io.Writer, v *suite.Verification) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	d := struct {
		APIVersion string `json:"apiVersion"`
		ExitCode   int    `json:"exitCode"`
		*suite.Verification
	}{APIVersion, v.ExitCode(), v}
	if err := enc.Encode(d); err != nil {
		return fmt.Errorf("write verification: %w", err)
	}
	return nil
}
