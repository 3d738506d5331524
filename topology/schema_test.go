package topology

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// Every key that the loader takes is in the schema with a description, and
// the reverse; what is required in one is in the other.
func TestSchemaHasTheLoadersKeys(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Properties           map[string]struct{ Description string }
		Required             []string
		AdditionalProperties any
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var check func(reflect.Type, object)
	check = func(typ reflect.Type, o object) {
		keys, fields := keysOf(typ)
		if len(o.Properties) != len(keys) || o.AdditionalProperties != false {
			t.Errorf("%s has the keys %v in the loader, %v in the schema", typ.Name(), keys, o.Properties)
		}
		if want := requiredOf(typ); !reflect.DeepEqual(want, o.Required) {
			t.Errorf("%s requires %v in the loader, %v in the schema", typ.Name(), want, o.Required)
		}
		for _, k := range keys {
			if d := o.Properties[k].Description; d == "" || !strings.HasSuffix(d, ".") {
				t.Errorf("%s.%s is described as %q", typ.Name(), k, d)
			}
			f := typ.Field(fields[k]).Type
			for f.Kind() == reflect.Slice {
				f = f.Elem()
			}
			if def, ok := schema.Defs[f.Name()]; ok && !seen[f.Name()] {
				seen[f.Name()] = true
				check(f, def)
			}
		}
	}
	check(reflect.TypeFor[Spec](), schema.object)
	if len(seen) != len(schema.Defs) || len(seen) < 10 {
		t.Errorf("reached %d of %d definitions", len(seen), len(schema.Defs))
	}
}

// The schema's lists of words are the loader's.
func TestSchemaEnums(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]struct {
			Properties map[string]struct {
				Enum             []string
				Minimum, Maximum *int
			}
		} `json:"$defs"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	if got := schema.Defs["BackendSpec"].Properties["Type"].Enum; !reflect.DeepEqual(got, backends()) {
		t.Errorf("backends %v", got)
	}
	for _, mode := range schema.Defs["LabSpec"].Properties["ipv6"].Enum {
		plan(t, "  ipv6: "+mode+"\n")
	}
	for _, provider := range schema.Defs["LabSpec"].Properties["provider"].Enum {
		plan(t, "  provider: "+provider+"\n")
	}
	if n := schema.Defs["NodeSpec"].Properties["count"].Maximum; n == nil || *n != maxNodes {
		t.Errorf("count's maximum %v", n)
	}
	if n := schema.Defs["LabSpec"].Properties["podsPerNode"].Minimum; n == nil || *n != 0 {
		t.Errorf("podsPerNode's minimum %v", n)
	}
}
