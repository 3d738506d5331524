// Package suite runs checks against a lab: it chooses them, runs the harmless
// ones side by side and those that disturb the lab alone, and turns what they
// found into verdicts with their evidence.
//
// A check is data and one function; the function measures through its Env and
// states what it expected. A verdict is never better than its evidence: what
// could not be measured is inconclusive, and that is never a pass.
package suite

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Level says whom a check binds.
type Level string

// The levels.
const (
	// Core checks bind every overlay that claims the profile.
	Core Level = "C"
	// Extended checks ask for more than every overlay must give.
	Extended Level = "E"
	// Hardening checks ask for defences.
	Hardening Level = "H"
	// Strict checks ask for the letter of the RFC.
	Strict Level = "R"
	// Information checks record and never fail.
	Information Level = "I"
)

// A Check is one entry of the catalogue.
type Check struct {
	// ID is its stable name, as TTL-03: never reused for another meaning.
	ID string
	// Level is Core for the zero value.
	Level Level
	// Title states what is true when the check passes, in up to 60 bytes, so
	// that a report fits 80 columns.
	Title string
	// Source is where the demand comes from, as "RFC 7348 section 5".
	Source string
	// Profiles name the groups that it belongs to, as "vxlan".
	Profiles []string
	// Needs are what the lab must offer; a check whose needs are not met is
	// not applicable.
	Needs []Feature
	// OverIPv6 says that the check judges the overlay's IPv6: the plan that its
	// Env has is topology.Plan.Over6's.
	OverIPv6 bool
	// Disturbs says that the check changes the lab, so that it must run
	// alone. It puts back what it changed.
	Disturbs bool
	// Forges says that the check puts frames on the underlay that are not what
	// they claim to be. They change nothing, but a network may take them for an
	// attack.
	Forges bool
	// Part, where set, names the part of the lab that a disturbing check changes
	// and judges: it may run beside those of other parts, not beside another of
	// its own, nor beside harmless ones.
	Part string
	// Run measures and states what it expected through env. A nil error with
	// nothing found wrong is a pass; NotApplicablef and Inconclusivef make
	// errors that stand for those verdicts; any other error says that the
	// measurement failed, which is inconclusive.
	Run func(ctx context.Context, env *Env) error
}

// A Suite is an ordered set of checks.
type Suite struct{ checks []Check }

// New makes a suite. It refuses two checks of one ID and checks without ID,
// title or function, all at once.
func New(checks []Check) (*Suite, error) {
	var errs []error
	seen := map[string]bool{}
	s := &Suite{checks: slices.Clone(checks)}
	for i := range s.checks {
		c := &s.checks[i]
		if c.Level == "" {
			c.Level = Core
		}
		switch {
		case c.ID == "" || c.Title == "" || c.Run == nil:
			errs = append(errs, fmt.Errorf("check %d (%q): it needs an ID, a title and a function", i, c.ID))
		case seen[c.ID]:
			errs = append(errs, fmt.Errorf("check %s: there are two of this ID", c.ID))
		}
		seen[c.ID] = true
	}
	return s, errors.Join(errs...)
}

// Checks returns the checks in their order.
func (s *Suite) Checks() []Check { return slices.Clone(s.checks) }

// Selection chooses checks. The zero Selection chooses all.
type Selection struct {
	// Only holds regular expressions; a check is chosen whose ID one of them
	// matches from its beginning, without regard to case: "ttl", "WF-0[12]".
	Only []string
	// Levels and Profiles, where not empty, choose the checks of any of them.
	Levels   []Level
	Profiles []string
	// Usual are the levels where Levels names none. A check whose whole ID Only
	// has is chosen whatever its level.
	Usual []Level
	// Skip holds expressions like those of Only; a chosen check that one of
	// them matches is reported as skipped.
	Skip []string
}

// chosen is a check that takes part in a run.
type chosen struct {
	Check
	skip bool
}

// Select returns the checks that a selection chooses and does not skip. An
// expression that is not regular, or matches no check, is an error.
func (s *Suite) Select(sel Selection) ([]Check, error) {
	all, err := s.choose(sel)
	var out []Check
	for _, c := range all {
		if !c.skip {
			out = append(out, c.Check)
		}
	}
	return out, err
}

func (s *Suite) choose(sel Selection) ([]chosen, error) {
	only, err1 := s.compile("select", sel.Only)
	skip, err2 := s.compile("skip", sel.Skip)
	if err := errors.Join(err1, err2, s.known(sel)); err != nil {
		return nil, err
	}
	var out []chosen
	for _, c := range s.checks {
		if len(only) > 0 && !matchAny(only, c.ID) ||
			!sel.allows(c) ||
			len(sel.Profiles) > 0 && !overlap(sel.Profiles, c.Profiles) {
			continue
		}
		out = append(out, chosen{c, matchAny(skip, c.ID)})
	}
	return out, nil
}

// allows reports whether a check is of a chosen level.
func (sel Selection) allows(c Check) bool {
	if len(sel.Levels) > 0 {
		return slices.Contains(sel.Levels, c.Level)
	}
	return len(sel.Usual) == 0 || slices.Contains(sel.Usual, c.Level) ||
		slices.ContainsFunc(sel.Only, func(id string) bool { return strings.EqualFold(id, c.ID) })
}

// known refuses levels and profiles that no check has: a misspelt one would
// choose nothing and look like success.
func (s *Suite) known(sel Selection) error {
	var errs []error
	for _, l := range sel.Levels {
		if !slices.ContainsFunc(s.checks, func(c Check) bool { return c.Level == l }) {
			errs = append(errs, fmt.Errorf("no check has level %q", l))
		}
	}
	for _, p := range sel.Profiles {
		if !slices.ContainsFunc(s.checks, func(c Check) bool { return slices.Contains(c.Profiles, p) }) {
			errs = append(errs, fmt.Errorf("no check has profile %q", p))
		}
	}
	return errors.Join(errs...)
}

func (s *Suite) compile(verb string, patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	var errs []error
	for _, p := range patterns {
		re, err := regexp.Compile("(?i)^(?:" + p + ")")
		if err != nil {
			errs = append(errs, fmt.Errorf("%s checks %q: %w", verb, p, err))
			continue
		}
		if !slices.ContainsFunc(s.checks, func(c Check) bool { return re.MatchString(c.ID) }) {
			errs = append(errs, fmt.Errorf("%s checks %q: none of %s matches", verb, p, s.ids()))
		}
		out = append(out, re)
	}
	return out, errors.Join(errs...)
}

func (s *Suite) ids() string {
	ids := make([]string, len(s.checks))
	for i, c := range s.checks {
		ids[i] = c.ID
	}
	return strings.Join(ids, ", ")
}

func matchAny(res []*regexp.Regexp, id string) bool {
	return slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(id) })
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
