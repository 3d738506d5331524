package render

import (
	"encoding/json"
	"io"

	"github.com/overlab/overlab/harness/walk"
)

// asJSON writes the report itself; its apiVersion names the schema.
func asJSON(w io.Writer, r *walk.Report, _ Options) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
