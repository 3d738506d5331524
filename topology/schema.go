package topology

import (
	_ "embed" // for specSource
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
)

// specSource is the file whose comments describe the keys.
//
//go:embed spec.go
var specSource string

// Schema returns the JSON Schema (draft 2020-12) of a lab file, indented, for
// editors and other checkers. What one key says about another is beyond it;
// Parse checks that.
func Schema() ([]byte, error) {
	comments, err := fieldComments(specSource)
	if err != nil {
		return nil, fmt.Errorf("describing the spec's keys: %w", err)
	}
	r := &jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true,
		Mapper:                     textSchema,
		LookupComment: func(t reflect.Type, field string) string {
			return comments[t.Name()+"."+field]
		},
	}
	s := r.Reflect(&Spec{})
	s.Title = "overlab lab file"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	return append(out, '\n'), nil
}

// textSchema gives the types that are one word of YAML their schemas.
func textSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[netip.Prefix]():
		return &jsonschema.Schema{Type: "string", Pattern: "^[0-9A-Fa-f.:]+/[0-9]+$", Examples: []any{"172.16.1.0/24"}}
	case reflect.TypeFor[netip.Addr]():
		return &jsonschema.Schema{Type: "string", Pattern: "^[0-9A-Fa-f.:]+$", Examples: []any{"172.16.1.8"}}
	case conflistType:
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, {Type: "object"}}}
	case reflect.TypeFor[MAC]():
		return &jsonschema.Schema{Type: "string", Examples: []any{"02:00:5e:10:00:01"}}
	default:
		return nil
	}
}

// fieldComments returns the comments of a file's struct fields by Type.Field.
func fieldComments(source string) (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "spec.go", source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		t, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		fields, ok := t.Type.(*ast.StructType)
		if !ok {
			return false
		}
		for _, f := range fields.Fields.List {
			for _, name := range f.Names {
				out[t.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return false
	})
	return out, nil
}
