package netns

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/overlab/overlab/topology"
)

// ownRoot gives the test a state root of its own.
func ownRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "labs")
	t.Setenv("OVERLAB_STATE_DIR", root)
	return root
}

func stateNamed(t *testing.T, name string) state {
	t.Helper()
	s, err := stateOf(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func claim(t *testing.T, s state) *os.File {
	t.Helper()
	lock, err := s.claim()
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", path, err)
	}
}

func TestStateRoot(t *testing.T) {
	t.Setenv("OVERLAB_STATE_DIR", "relative")
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if root, err := StateRoot(); err != nil || root != filepath.Join(wd, "relative") {
		t.Errorf("OVERLAB_STATE_DIR=relative gives %s, %v", root, err)
	}
}

// A lab's name becomes a folder that Down removes whole.
func TestNamesThatAreNoLabs(t *testing.T) {
	root := ownRoot(t)
	victim := filepath.Join(filepath.Dir(root), "victim")
	write(t, filepath.Join(victim, lockFile), "")
	write(t, filepath.Join(victim, "precious"), "x")
	for _, name := range []string{"", ".", "..", "../victim", "a/../../victim", "/", "a/b", "-a", "A", "a b", "a\x00b"} {
		p := new(Provider)
		if err := p.Down(context.Background(), name); !errors.Is(err, topology.ErrNoLab) {
			t.Errorf("Down(%q) = %v, want ErrNoLab", name, err)
		}
		if _, err := p.Open(context.Background(), name); !errors.Is(err, topology.ErrNoLab) {
			t.Errorf("Open(%q) = %v, want ErrNoLab", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(victim, "precious")); err != nil {
		t.Error("a folder that is no lab's was cleared:", err)
	}
}

func TestClaim(t *testing.T) {
	root := ownRoot(t)
	s := stateNamed(t, "a")
	lock := claim(t, s)
	if st, err := os.Stat(s.dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("state folder: %v, %v; want it for its owner alone", st.Mode(), err)
	}
	if _, err := s.claim(); !errors.Is(err, topology.ErrRunning) {
		t.Errorf("second claim: %v, want topology.ErrRunning", err)
	}
	if err := s.alive(); err != nil {
		t.Error("a lab that holds its lock is not alive:", err)
	}
	if err := s.removeStale(); !errors.Is(err, topology.ErrRunning) {
		t.Errorf("removeStale of a living lab: %v, want topology.ErrRunning", err)
	}
	other := claim(t, stateNamed(t, "b"))
	if err := errors.Join(s.remove(), lock.Close()); err != nil {
		t.Error(err)
	}
	gone(t, s.dir)
	if _, err := os.Stat(root); err != nil {
		t.Error("the root went while another lab lives:", err)
	}
	if err := errors.Join(stateNamed(t, "b").remove(), other.Close()); err != nil {
		t.Error(err)
	}
	gone(t, root)
}

func TestClaimClearsWhatADeadLabLeft(t *testing.T) {
	ownRoot(t)
	s := stateNamed(t, "a")
	claim(t, s).Close()
	write(t, s.path(planFile), "{}")
	write(t, s.path(logFolder, "agent-node-1.log"), "x")
	lock := claim(t, s)
	defer lock.Close()
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != lockFile {
		t.Errorf("after the claim the folder holds %v (%v), not the lock alone", entries, err)
	}
}

// OVERLAB_STATE_DIR=$HOME overlab up --name projects must not clear ~/projects.
func TestClaimRefusesAFolderThatIsNoLabs(t *testing.T) {
	root := ownRoot(t)
	file := filepath.Join(root, "projects", "thesis.tex")
	write(t, file, "x")
	_, err := stateNamed(t, "projects").claim()
	if err == nil || !strings.Contains(err.Error(), "thesis.tex") || !strings.Contains(err.Error(), "OVERLAB_STATE_DIR") {
		t.Errorf("claim of somebody's folder: %v", err)
	}
	if labs, err := new(Provider).List(context.Background()); err != nil || len(labs) > 0 {
		t.Errorf("List = %v, %v", labs, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestListClearsStaleFolders(t *testing.T) {
	root := ownRoot(t)
	dead, half := stateNamed(t, "dead"), stateNamed(t, "half")
	claim(t, dead).Close()
	write(t, dead.path(planFile), "{}")
	// A command that was killed between its two steps leaves an empty folder.
	if err := os.Mkdir(half.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	labs, err := new(Provider).List(context.Background())
	if err != nil || len(labs) > 0 {
		t.Errorf("List = %v, %v", labs, err)
	}
	gone(t, root)
}

func TestListShowsALabThatComesUp(t *testing.T) {
	ownRoot(t)
	defer claim(t, stateNamed(t, "a")).Close()
	labs, err := new(Provider).List(context.Background())
	if err != nil || len(labs) != 1 || labs[0].Name != "a" || labs[0].State != "starting" {
		t.Errorf("List = %+v, %v", labs, err)
	}
	if err := new(Provider).Down(context.Background(), "a"); err == nil || !strings.Contains(err.Error(), "coming up") {
		t.Errorf("Down of a lab that comes up: %v", err)
	}
}

// Claims, lists and removals at once: one claim wins at a time, and nobody
// stumbles over a folder that comes and goes.
func TestClaimsAtOnce(t *testing.T) {
	root := ownRoot(t)
	s := stateNamed(t, "a")
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		holder int
	)
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 200 {
				if i%4 == 0 {
					if _, err := new(Provider).List(context.Background()); err != nil {
						t.Error(err)
					}
					continue
				}
				lock, err := s.claim()
				if errors.Is(err, topology.ErrRunning) {
					continue
				}
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				if holder++; holder > 1 {
					t.Errorf("%d hold the lock", holder)
				}
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				holder--
				mu.Unlock()
				if err := errors.Join(s.remove(), lock.Close()); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	gone(t, root)
}

func TestClaimRefusesARootOfSomebodyElse(t *testing.T) {
	root := ownRoot(t)
	write(t, root, "a file in the root's place")
	if _, err := stateNamed(t, "a").claim(); err == nil {
		t.Error("claim in a file: no error")
	}
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), root); err != nil {
		t.Fatal(err)
	}
	if _, err := stateNamed(t, "a").claim(); err == nil || !strings.Contains(err.Error(), "not a folder of yours") {
		t.Errorf("claim through a link that anybody may have made: %v", err)
	}
}

func TestPlanIsKept(t *testing.T) {
	p := planOf(t, "spec: {}\n")
	path := filepath.Join(t.TempDir(), planFile)
	if err := writePlan(path, p); err != nil {
		t.Fatal(err)
	}
	got, err := readPlan(path)
	if err != nil || got.Name != p.Name || len(got.Nodes) != len(p.Nodes) || !reflect.DeepEqual(got.Pods, p.Pods) {
		t.Errorf("read back %+v, %v", got, err)
	}
	// A plan may hold a pre-shared key.
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("others can read it: %v, %v", st.Mode(), err)
	}
	write(t, path, "{")
	if _, err := readPlan(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a plan: %v", err)
	}
}
