package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/overlab/overlab/agent/datapath"
)

// recordName is the file beside the subnet file in which an agent notes what
// it owns of a device that is not its own. Nothing in the kernel tells such a
// route from one that somebody else has made, so --cleanup needs it.
const recordName = "bare-routes.json"

func recordPath(subnetFile string) string { return filepath.Join(filepath.Dir(subnetFile), recordName) }

// recordBare writes the note, or removes it where nothing is owned.
func recordBare(subnetFile string, b datapath.BareRoutes) error {
	path := recordPath(subnetFile)
	have, err := recordedBare(subnetFile)
	switch {
	case err == nil && have == b:
		return nil
	case b.Dev == "":
		err = os.Remove(path)
	default:
		raw, _ := json.Marshal(b) // it always can be
		err = os.WriteFile(path, append(raw, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("note which routes are ours: %w", err)
	}
	return nil
}

// recordedBare reads the note; the zero BareRoutes where there is none.
func recordedBare(subnetFile string) (datapath.BareRoutes, error) {
	var b datapath.BareRoutes
	raw, err := os.ReadFile(recordPath(subnetFile))
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &b)
	}
	if err != nil {
		return datapath.BareRoutes{}, fmt.Errorf("read which routes are ours: %w", err)
	}
	return b, nil
}
