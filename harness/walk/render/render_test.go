package render_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/harness/walk/render"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/topology"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// reports are a walk that arrives and one that does not, for the FDB entry of
// node-1 is gone from master.
func reports(t *testing.T) (whole, broken *walk.Report) {
	t.Helper()
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	run := func() *walk.Report {
		r, err := walk.Run(t.Context(), lab, "master-pod-1", "node-1-pod-1", walk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	whole = run()
	lab.Exec(t, "master", "bridge", "fdb", "del", lab.Plan().Nodes[1].VtepMAC.String(), "dev", "flannel.1", "dst", "172.16.1.9")
	return whole, run()
}

func written(t *testing.T, form string, r *walk.Report, o render.Options) string {
	t.Helper()
	var b bytes.Buffer
	if err := render.Write(&b, form, r, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestForms: each form of a walk can be read by what it is for, and says where
// it went wrong.
func TestForms(t *testing.T) {
	whole, broken := reports(t)
	cause := broken.Divergence.Cause
	if whole.Verdict != walk.Arrived || broken.Verdict != walk.Diverged {
		t.Fatalf("%s and %s", whole.Verdict, broken.Verdict)
	}

	t.Run("text", func(t *testing.T) {
		for _, r := range []*walk.Report{whole, broken} {
			out := written(t, "text", r, render.Options{})
			for line := range strings.Lines(out) {
				if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > 80 {
					t.Errorf("longer than 80 columns: %s", line)
				}
			}
			if strings.Contains(out, "\x1b") {
				t.Error("colours that nobody asked for")
			}
		}
		for _, want := range []string{
			" 5. master ens3, out", "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink", "self permanent", "vni 1",
			"and back:", "24. master-pod-1 eth0, in", "arrived and answered: ttl=62", "24 steps, all as predicted",
		} {
			if out := written(t, "text", whole, render.Options{}); !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		out := strings.Join(strings.Fields(written(t, "text", broken, render.Options{})), " ")
		for _, want := range []string{"here the state says that it ends", "diverged on the request, at master:flannel.1", cause, "mend on master: bridge fdb replace"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if out := written(t, "text", broken, render.Options{Color: true}); !strings.Contains(out, "\x1b[1;31mdiverged") {
			t.Errorf("no red verdict in\n%s", out)
		}
	})

	t.Run("json", func(t *testing.T) {
		var got walk.Report
		if err := json.Unmarshal([]byte(written(t, "json", broken, render.Options{})), &got); err != nil {
			t.Fatal(err)
		}
		if got.APIVersion != topology.APIVersion || got.Kind != "Walk" || len(got.Request.Steps) != 4 || got.Divergence.Cause != cause || got.ID != broken.ID {
			t.Errorf("%+v", got)
		}
	})

	t.Run("mermaid", func(t *testing.T) {
		out := written(t, "mermaid", whole, render.Options{})
		for _, want := range []string{"sequenceDiagram\n", "  box master\n", "participant p_master_flannel_1 as flannel.1\n", "p_master_flannel_1->>p_master_ens3: 5. VXLAN vni 1", "-->>"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if strings.Contains(out, ";") {
			t.Error("a semicolon, which ends a statement")
		}
		if out := written(t, "mermaid", broken, render.Options{}); !strings.Contains(out, "note over p_master_flannel_1: master has no FDB entry") {
			t.Errorf("no cause in\n%s", out)
		}
	})

	t.Run("svg", func(t *testing.T) {
		for _, r := range []*walk.Report{whole, broken} {
			d := xml.NewDecoder(strings.NewReader(written(t, "svg", r, render.Options{})))
			arrows := 0
			for {
				tok, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "g" {
					arrows++
				}
			}
			if want := len(r.Request.Steps); r.Reply == nil && arrows != want {
				t.Errorf("%d steps are drawn, not %d", arrows, want)
			}
		}
	})

	t.Run("html", func(t *testing.T) {
		out := written(t, "html", broken, render.Options{})
		for _, bad := range []string{"src=", "href=", "@import", "url(\"", "http-equiv", "<script"} {
			if strings.Contains(out, bad) {
				t.Errorf("%q: the page needs something else", bad)
			}
		}
		for _, want := range []string{"<svg", "no FDB entry for", "bridge fdb replace", "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink", "</html>"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q", want)
			}
		}
	})

	t.Run("pcapng", func(t *testing.T) { testPcapng(t, whole) })

	if err := render.Write(io.Discard, "gif", whole, render.Options{}); err == nil || !strings.Contains(err.Error(), "text json") {
		t.Error(err)
	}
}

// testPcapng reads the file again: an interface a tap, a comment a step.
func testPcapng(t *testing.T, r *walk.Report) {
	file := written(t, "pcapng", r, render.Options{})
	in, err := pcapgo.NewNgReader(strings.NewReader(file), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	packets := 0
	for {
		data, info, err := in.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		packets++
		if !bytes.Contains(data, r.ID[:]) {
			t.Errorf("packet %d on interface %d is not marked", packets, info.InterfaceIndex)
		}
	}
	if packets != 24 || in.NInterfaces() != len(r.Taps) {
		t.Errorf("%d packets and %d interfaces, not 24 and %d", packets, in.NInterfaces(), len(r.Taps))
	}
	for i := range 24 {
		if comment := fmt.Sprintf("step %d: ", i+1); !strings.Contains(file, comment) {
			t.Errorf("no comment %q", comment)
		}
	}
	first, err := in.Interface(0)
	if err != nil || first.Name != "master-pod-1:eth0" {
		t.Errorf("the first interface is %q: %v", first.Name, err)
	}
	if !slices.Contains(render.Forms(), "pcapng") {
		t.Error("pcapng is no form")
	}
}
