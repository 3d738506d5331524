package daemon

import (
	"flag"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/overlab/overlab/agent/metrics"
)

// docs/agent.md names every flag, and every metric that a scrape shows.
func TestDocumentation(t *testing.T) {
	raw, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	new(settings).flagSet().VisitAll(func(f *flag.Flag) {
		if !strings.Contains(doc, "`--"+f.Name+"`") && !strings.Contains(doc, "`-"+f.Name+"`") {
			t.Errorf("no word of --%s", f.Name)
		}
	})
	m := metrics.New("")
	m.Watch(func() map[string]error { return nil })
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "# HELP "), " ")
		if strings.HasPrefix(line, "# HELP overlab_") && !strings.Contains(doc, "`"+name) {
			t.Errorf("no word of %s", name)
		}
	}
}
