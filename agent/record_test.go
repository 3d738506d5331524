package agent

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/internal/nstest"
)

// TestHandOverNotesInOneStep: whoever is killed while it writes leaves the note
// that was there. Half a note would keep every later agent from getting ready.
func TestHandOverNotesInOneStep(t *testing.T) {
	nstest.Require(t)
	subnetFile := filepath.Join(t.TempDir(), "subnet.env")
	ours := datapath.BareRoutes{Dev: "eth9", Network: netip.MustParsePrefix("10.244.0.0/16"), Len: 24}
	if err := handOver(subnetFile, ours, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(subnetFile), "link")
	if err := os.Link(recordPath(subnetFile), link); err != nil {
		t.Fatal(err)
	}
	next := ours
	next.Len = 25
	if err := handOver(subnetFile, next, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if got, err := recordedBare(subnetFile); err != nil || got != next {
		t.Errorf("the note says %v, %v", got, err)
	}
	if before, err := os.ReadFile(link); err != nil || string(before) != string(recordOf(ours)) {
		t.Errorf("the note that was there was written over: %q, %v", before, err)
	}
}

// TestHandOverOfSpoiltNote: the error names the file and the mend.
func TestHandOverOfSpoiltNote(t *testing.T) {
	subnetFile := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.WriteFile(recordPath(subnetFile), []byte(`{"Dev":"et`), 0o644); err != nil {
		t.Fatal(err)
	}
	err := handOver(subnetFile, datapath.BareRoutes{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), recordPath(subnetFile)) || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("the error is %v", err)
	}
}
