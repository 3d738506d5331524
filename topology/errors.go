package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a spec.
type Error struct {
	// File is the name that the spec was read under, empty for a spec that
	// was built in memory.
	File string
	// Line and Column count from 1; 0 where the spec has no text.
	Line, Column int
	// Path is the YAML path, such as spec.nodes[2].podCIDR; empty for an
	// error of the file as a whole.
	Path string
	// Msg says what was found and what would be right.
	Msg string
}

// Error gives file:line:column: path: message, without the parts that are
// not known.
func (e Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", e.Line, e.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Errors are all that is wrong with a spec, in the order of the file.
type Errors []Error

// shownErrors bounds the text of Errors: beyond that, a person reads no more.
const shownErrors = 100

// Error gives one line an error, and of more than a hundred the first.
func (e Errors) Error() string {
	lines := make([]string, 0, min(len(e), shownErrors)+1)
	for _, x := range e[:min(len(e), shownErrors)] {
		lines = append(lines, x.Error())
	}
	if more := len(e) - shownErrors; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more errors", more))
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.As find the single errors.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i := range e {
		out[i] = e[i]
	}
	return out
}

// position is a place in a file; both count from 1.
type position struct{ line, column int }

// source is where a spec was read from.
type source struct {
	file string
	// dir is the absolute path of the file's folder, empty for a text that
	// was in memory.
	dir string
	// at holds the position of every value by its path.
	at map[string]position
	// bad holds the paths whose values could not be decoded: what follows
	// from their absence is not worth a second error. badUnder holds those
	// and all paths above them.
	bad, badUnder map[string]bool
}

func newSource(file string) *source {
	return &source{file: file, at: map[string]position{}, bad: map[string]bool{}, badUnder: map[string]bool{}}
}

// spoil marks the value at a path as one that could not be decoded.
func (s *source) spoil(path string) {
	s.bad[path] = true
	for p := path; p != "" && !s.badUnder[p]; p = parent(p) {
		s.badUnder[p] = true
	}
}

// report collects what is wrong with a spec.
type report struct {
	source *source
	errs   Errors
	// filed keeps an entry that makes many nodes from one complaint a node.
	filed map[Error]bool
}

// add files an error about the value at a path, unless that value, or one
// that holds it, is already known to be bad.
func (r *report) add(path, format string, args ...any) {
	for p := path; p != ""; p = parent(p) {
		if r.source.bad[p] {
			return
		}
	}
	pos := r.source.position(path)
	e := Error{File: r.source.file, Line: pos.line, Column: pos.column, Path: path, Msg: fmt.Sprintf(format, args...)}
	if r.filed[e] {
		return
	}
	if r.filed == nil {
		r.filed = map[Error]bool{}
	}
	r.filed[e] = true
	r.errs = append(r.errs, e)
}

// once is add for what may be wrong many times over for one reason: it files
// the first error about the value at a path.
func (r *report) once(path, format string, args ...any) {
	if !slices.ContainsFunc(r.errs, func(e Error) bool { return e.Path == path }) {
		r.add(path, format, args...)
	}
}

// badUnder reports whether a value at or below the path could not be decoded.
func (r *report) badUnder(path string) bool { return r.source.badUnder[path] }

// err returns the errors in the order of the file, or nil.
func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r.errs
}

// position returns the place of the value at a path, or of the nearest value
// that holds it.
func (s *source) position(path string) position {
	for p := path; ; p = parent(p) {
		if at, ok := s.at[p]; ok || p == "" {
			return at
		}
	}
}

// parent cuts the last key or index off a path.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }
