package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/internal/wholefile"
)

// recordName is the file beside the subnet file in which an agent notes what
// it owns of a device that is not its own. Nothing in the kernel tells such a
// route from one that somebody else has made, so --cleanup needs it, and so does
// an agent whose network has another backend now.
const recordName = "bare-routes.json"

func recordPath(subnetFile string) string { return filepath.Join(filepath.Dir(subnetFile), recordName) }

// handOver notes what is owned from now on. What was owned before, is so no
// longer, and has not been displaced by now, is stale, and goes. What is owned
// still is the loop's to judge.
func handOver(subnetFile string, b datapath.BareRoutes, log *slog.Logger) error {
	before, err := recordedBare(subnetFile)
	switch {
	case err != nil:
		return err
	case before == b:
		return nil
	case before.Dev != "":
		if err := removeRoutes(bareScope(before), b, log); err != nil {
			return err
		}
	}
	if b.Dev == "" {
		err = os.Remove(recordPath(subnetFile))
	} else {
		err = wholefile.WriteBytes(recordPath(subnetFile), 0o644, recordOf(b))
	}
	if err != nil {
		return fmt.Errorf("note which routes are ours: %w", err)
	}
	return nil
}

// recordOf is the note's content.
func recordOf(b datapath.BareRoutes) []byte {
	raw, _ := json.Marshal(b) // it always can be
	return append(raw, '\n')
}

// bareScope owns those routes and nothing else.
func bareScope(b datapath.BareRoutes) datapath.Scope {
	return datapath.Scope{Bare: b, IPv6: b.Network6.IsValid()}
}

// removeRoutes removes the owned routes of a scope without devices, save those
// that are to be kept.
func removeRoutes(scope datapath.Scope, keep datapath.BareRoutes, log *slog.Logger) error {
	kernel, err := datapath.Open(scope)
	if err != nil {
		return err
	}
	defer kernel.Close() // nothing is left in it
	changes := removal(kernel.State(), keep)
	for _, c := range changes {
		log.Info("removed", "change", c.String())
	}
	return kernel.Apply(changes)
}

// removal is what removes the routes of a state, save those that are to be kept.
func removal(routes datapath.State, keep datapath.BareRoutes) []datapath.Change {
	return slices.DeleteFunc(datapath.Diff(datapath.NewState(), routes), func(c datapath.Change) bool {
		r, is := c.Entry.(datapath.Route)
		return is && keep.Owns(r)
	})
}

// recordedBare reads the note; the zero BareRoutes where there is none.
func recordedBare(subnetFile string) (datapath.BareRoutes, error) {
	var b datapath.BareRoutes
	path := recordPath(subnetFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("read which routes are ours: %w", err)
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return datapath.BareRoutes{}, fmt.Errorf("read which routes are ours: %s: %w; remove the file, and any routes to other nodes' pods that an earlier agent has left", path, err)
	}
	return b, nil
}
