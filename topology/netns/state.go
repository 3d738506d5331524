package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// Names inside a lab's state folder.
const (
	lockFile    = "overlab.lock"
	planFile    = "plan.json"
	socketFile  = "control.sock"
	logFolder   = "logs"
	mountFolder = "fs"
)

// StateRoot returns the folder that holds the state folders of this user's
// labs: /run/overlab for root, $XDG_RUNTIME_DIR/overlab otherwise, and a
// folder of the user's own under the temporary folder where no session
// manager has made one.
func StateRoot() (string, error) {
	uid := os.Getuid()
	if dir := os.Getenv("OVERLAB_STATE_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if uid == 0 {
		return "/run/overlab", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "overlab"), nil
	}
	if dir := filepath.Join("/run/user", strconv.Itoa(uid)); owned(dir, uid) == nil {
		return filepath.Join(dir, "overlab"), nil
	}
	return filepath.Join(os.TempDir(), "overlab-"+strconv.Itoa(uid)), nil
}

// owned says why dir is not a folder of that user's alone.
func owned(dir string, uid int) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("state folder %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != uid {
		return fmt.Errorf("state folder %s is not a folder of yours (uid %d): remove it, or set OVERLAB_STATE_DIR", dir, uid)
	}
	return nil
}

// state is one lab's state folder.
type state struct {
	name string
	dir  string
}

// labName is what topology lets a lab be called. A name becomes a folder that
// is removed with all that is in it, so nothing else may pass.
var labName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// stateOf returns the folder of the lab of that name; topology.ErrNoLab if no
// lab can be called so.
func stateOf(name string) (state, error) {
	if !labName.MatchString(name) {
		return state{}, fmt.Errorf("lab %q: %w: names are lower-case letters, digits and hyphens", name, topology.ErrNoLab)
	}
	root, err := StateRoot()
	if err != nil {
		return state{}, err
	}
	return state{name: name, dir: filepath.Join(root, name)}, nil
}

func (s state) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// claim makes the state folder and takes its lock, which lives as long as any
// process holds the returned file. What a dead lab left is cleared.
func (s state) claim() (*os.File, error) {
	root := filepath.Dir(s.dir)
	for {
		switch err := os.MkdirAll(root, 0o700); {
		case errors.Is(err, fs.ErrExist):
			continue // it was there, and went before MkdirAll looked
		case err != nil:
			return nil, fmt.Errorf("make state folder: %w", err)
		}
		err := owned(root, os.Getuid())
		if err == nil {
			err = os.Mkdir(s.dir, 0o700)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // the root went with another command's last lab
		case err != nil && !errors.Is(err, fs.ErrExist):
			return nil, fmt.Errorf("make state folder: %w", err)
		}
		if err := s.ours(); err != nil {
			return nil, err
		}
		lock, err := s.lock()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // cleared by another command between the two steps
		case err != nil:
			s.removeEmpty() // no room for the lock
			return nil, err
		}
		if err := s.clear(); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
		return lock, nil
	}
}

// ours says why the folder is not a lab's: it holds files, and no lock among
// them. What is in a lab's folder is removed, and this is somebody's.
func (s state) ours() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read state folder: %w", err)
	}
	if len(entries) == 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lockFile }) {
		return nil
	}
	return fmt.Errorf("state folder %s holds files that no lab put there (%s): call the lab something else, or set OVERLAB_STATE_DIR to another folder", s.dir, entries[0].Name())
}

// lock takes the folder's lock; topology.ErrRunning if a lab holds it, fs.ErrNotExist
// if the folder is gone.
func (s state) lock() (*os.File, error) {
	f, err := os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of lab %s: %w", s.name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lab %s %w", s.name, topology.ErrRunning)
		}
		return nil, fmt.Errorf("lock lab %s: %w", s.name, err)
	}
	// The file may have been unlinked between open and flock.
	var held, named unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &held); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Stat(s.path(lockFile), &named); err != nil || held.Ino != named.Ino || held.Dev != named.Dev {
		f.Close()
		return nil, fmt.Errorf("lock lab %s: %w", s.name, fs.ErrNotExist)
	}
	return f, nil
}

// clear removes everything in the folder but the lock.
func (s state) clear() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("clear state folder: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != lockFile {
			errs = append(errs, os.RemoveAll(s.path(e.Name())))
		}
	}
	return errors.Join(errs...)
}

// remove removes the folder; the caller holds its lock. The lock goes last, so
// that a folder without one is empty, however this ends. The root goes too
// when it was the last lab's.
func (s state) remove() error {
	if err := s.clear(); err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	if err := os.Remove(s.path(lockFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state folder: %w", err)
	}
	s.removeEmpty()
	return nil
}

// removeEmpty removes the folder, and the root after it, unless another
// command has put something there.
func (s state) removeEmpty() {
	if os.Remove(s.dir) == nil {
		_ = os.Remove(filepath.Dir(s.dir))
	}
}

// removeStale removes the folder if no lab lives in it.
func (s state) removeStale() error {
	lock, err := s.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(s.remove(), lock.Close())
}

// states lists the folders of labs, dead or alive.
func states() ([]state, error) {
	root, err := StateRoot()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	if len(entries) == 0 {
		_ = os.Remove(root) // a command that was killed has left it
	}
	var out []state
	for _, e := range entries {
		if e.IsDir() && labName.MatchString(e.Name()) {
			out = append(out, state{name: e.Name(), dir: filepath.Join(root, e.Name())})
		}
	}
	return out, nil
}

// writePlan keeps the plan in the folder.
func writePlan(path string, p *topology.Plan) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the plan: %w", err)
	}
	return nil
}

func readPlan(path string) (*topology.Plan, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the lab's plan: %w", err)
	}
	p := new(topology.Plan)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read the lab's plan %s: %w", path, err)
	}
	return p, nil
}
