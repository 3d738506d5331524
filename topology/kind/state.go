package kind

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/overlab/overlab/internal/wholefile"
	"github.com/overlab/overlab/topology"
)

// stateRoot is the folder that holds the state folders of kind labs. Those of
// other providers have their own, who would clear what is not theirs.
const stateRoot = "/run/overlab-kind"

// labName is what topology lets a lab be called.
var labName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// state is what is kept of a lab between commands.
type state struct {
	Plan    *topology.Plan   `json:"plan"`
	Created time.Time        `json:"created"`
	Phases  []topology.Phase `json:"phases"`
	// Image says that the lab put the node image into Docker, and removes it.
	Image string `json:"image,omitempty"`

	dir string
}

func root() string {
	if dir := os.Getenv("OVERLAB_STATE_DIR"); dir != "" {
		return dir + "-kind"
	}
	return stateRoot
}

func stateDir(name string) (string, error) {
	if !labName.MatchString(name) {
		return "", fmt.Errorf("lab %q: %w: names are lower-case letters, digits and hyphens", name, topology.ErrNoLab)
	}
	return filepath.Join(root(), name), nil
}

const stateFile = "lab.json"

// claim makes the folder of a lab that is to come up; topology.ErrRunning if
// there is one.
func claim(name string) (*state, error) {
	dir, err := stateDir(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("lab %s %w, or did not come up: %s is its folder", name, topology.ErrRunning, dir)
		}
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	return &state{Created: time.Now(), dir: dir}, nil
}

func (s *state) path(name string) string { return filepath.Join(s.dir, name) }

// keep writes the state, in one step.
func (s *state) keep() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = wholefile.Write(s.path(stateFile), 0o600, func(f *os.File) error {
			_, err := f.Write(append(b, '\n'))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keep the state of the lab: %w", err)
	}
	return nil
}

// imageFile names the image that the lab brings into Docker, also when its Up is
// killed.
const imageFile = "image"

// bring notes the image before it comes.
func (s *state) bring(image string) error {
	s.Image = image
	err := wholefile.Write(s.path(imageFile), 0o600, func(f *os.File) error {
		_, err := f.WriteString(image)
		return err
	})
	if err != nil {
		return fmt.Errorf("note the node image: %w", err)
	}
	return nil
}

// unfinished is the state of a lab whose Up was killed, or goes on.
func unfinished(name string) (*state, error) {
	dir, err := stateDir(name)
	if err != nil {
		return nil, err
	}
	s := &state{dir: dir}
	image, err := os.ReadFile(s.path(imageFile))
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("read which image lab %s has brought: %w", name, err)
	}
	s.Image = string(image)
	return s, nil
}

// load reads the state of a lab; topology.ErrNoLab if there is none.
func load(name string) (*state, error) {
	dir, err := stateDir(name)
	if err != nil {
		return nil, err
	}
	s := &state{dir: dir}
	b, err := os.ReadFile(s.path(stateFile))
	if absent(err) {
		return nil, fmt.Errorf("lab %s: %w", name, topology.ErrNoLab)
	}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of lab %s: %w", name, err)
	}
	return s, nil
}

// absent reports whether there is nothing, or nothing of this user's: only root
// has labs of this provider, in folders that others may not read.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}

// remove removes the folder, and the root after the last lab.
func (s *state) remove() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the state folder: %w", err)
	}
	_ = os.Remove(filepath.Dir(s.dir)) // unless another lab is in it
	return nil
}

// names lists the labs that have a folder.
func names() ([]string, error) {
	entries, err := os.ReadDir(root())
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && labName.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
