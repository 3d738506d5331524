package topology

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFileSize is the largest lab file that is read, in bytes.
const MaxFileSize = 1 << 20

// smallest is the lab file that a person is pointed to.
const smallest = "the smallest lab is {apiVersion: " + APIVersion + ", kind: " + Kind + ", spec: {}}"

// Load reads a lab file of at most MaxFileSize bytes, and the CNI
// configuration list that it may name. Its error is that of
// the file system, or Errors as from Parse.
func Load(path string) (*Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the lab file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the lab file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("reading the lab file: %w", err)
	}
	src := newSource(path)
	src.dir = dir
	return parse(src, data)
}

// Parse reads a lab file that the caller has in memory; name stands for it in
// errors. The text is YAML (JSON is YAML too), one document, without keys
// that Spec does not have. A spec that Parse accepts expands: Parse tries it,
// so that its error, which is Errors, holds everything that is wrong.
//
// What a lab file names by a path is seen from the file's folder, which a text
// in memory has none of: there, paths are absolute.
func Parse(name string, data []byte) (*Spec, error) {
	return parse(newSource(name), data)
}

func parse(src *source, data []byte) (*Spec, error) {
	spec := &Spec{source: src}
	r := &report{source: src}
	if root := document(data, r); root != nil && decode(root, spec, r) {
		readConflist(&spec.Spec.CNI.Conflist, r)
		expand(spec, r)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return spec, nil
}

// document parses the text and returns the value of its one document, or nil
// after filing why there is none.
func document(data []byte, r *report) *yaml.Node {
	fail := func(p position, format string, args ...any) *yaml.Node {
		r.errs = append(r.errs, Error{File: r.source.file, Line: p.line, Column: p.column, Msg: fmt.Sprintf(format, args...)})
		return nil
	}
	start := position{1, 1}
	if len(data) > MaxFileSize {
		return fail(start, "the file is larger than 1 MiB, the most that a lab file may be")
	}
	var doc, next yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return fail(start, "the file is empty; %s", smallest)
	case err != nil:
		p, msg := syntaxError(data, err)
		return fail(p, "%s", msg)
	}
	root := doc.Content[0]
	switch err := dec.Decode(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		p, msg := syntaxError(data, err)
		return fail(p, "%s", msg)
	default:
		return fail(position{next.Line, next.Column}, "a second document begins here; a lab file holds one: remove the \"---\" or split the file")
	}
	at := position{root.Line, root.Column}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return fail(start, "the file is empty; %s", smallest)
	}
	if root.Kind != yaml.MappingNode {
		return fail(at, "the file holds %s; %s", kindOf(root), smallest)
	}
	return root
}

var (
	yamlLine      = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)
	tabIndent     = regexp.MustCompile(`(?m)^ *\t+[^\s#]`)
	unknownAnchor = regexp.MustCompile(`^yaml: unknown anchor '(.*)' referenced$`)
)

// syntaxError says where the text stops being YAML, and why. The parser
// itself knows the line at best, and calls a tab only a character that starts
// no token.
func syntaxError(data []byte, err error) (position, string) {
	if found := tabIndent.FindIndex(data); found != nil {
		tab := found[0] + bytes.IndexByte(data[found[0]:], '\t')
		return place(data, tab), "a tab indents this line; YAML indents with spaces only"
	}
	if m := unknownAnchor.FindStringSubmatch(err.Error()); m != nil {
		return place(data, max(0, bytes.Index(data, []byte("*"+m[1])))), fmt.Sprintf("the alias *%s stands for nothing; write &%s before the value that it repeats, above", m[1], m[1])
	}
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return position{1, 1}, err.Error()
	}
	msg := strings.TrimPrefix(err.Error(), m[0])
	line, _ := strconv.Atoi(m[1])
	if strings.HasPrefix(msg, "did not find expected") {
		line++ // the parser, unlike its scanner, counts from 0
	}
	return position{min(max(line, 1), 1+bytes.Count(data, []byte("\n"))), 1}, "not YAML: " + msg
}

// place returns the position of a byte.
func place(data []byte, offset int) position {
	before := data[:offset]
	return position{1 + bytes.Count(before, []byte("\n")), offset - bytes.LastIndexByte(before, '\n')}
}
