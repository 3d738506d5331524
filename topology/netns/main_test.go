package netns

import (
	"os"
	"testing"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/topology"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// labFolders makes what the supervisor's mounts make: the lab's own files.
func labFolders(t *testing.T) {
	t.Helper()
	nstest.Require(t) // /run is this process's own
	for _, dir := range []string{nsFolder, binFolder, nodesFolder} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(labFolder); err != nil {
			t.Error(err)
		}
	})
}

// planOf plans a spec.
func planOf(t *testing.T, spec string) *topology.Plan {
	t.Helper()
	s, err := topology.Parse("lab.yaml", []byte("apiVersion: overlab/v1alpha1\nkind: Lab\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
