package cni

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/overlab/overlab/internal/wholefile"
)

// Installation puts the plugin on a node, as the init containers of flannel's
// manifest do with cp(1) (Documentation/kube-flannel.yml).
type Installation struct {
	// Program is the plugin's executable, and BinDir the folder in which the
	// container runtime looks for plugins, /opt/cni/bin.
	Program, BinDir string
	// Config is the configuration list, and ConfigFile its place on the node,
	// in /etc/cni/net.d.
	Config, ConfigFile string
}

// Install installs the plugin, then its configuration: a runtime counts a node
// as having a network once it finds the latter. Each file appears whole or not
// at all, also where the runtime is running the plugin that is replaced.
func (i Installation) Install() error {
	if err := place(i.Program, filepath.Join(i.BinDir, filepath.Base(i.Program)), 0o755); err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	if err := place(i.Config, i.ConfigFile, 0o644); err != nil {
		return fmt.Errorf("install the CNI configuration: %w", err)
	}
	return nil
}

// place copies a file over another in one step.
func place(from, to string, mode os.FileMode) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// Runtimes pass over names that begin with a dot, and have no extension
	// that they know, as that of the half file.
	return wholefile.Write(to, mode, func(f *os.File) error {
		_, err := io.Copy(f, source)
		return err
	})
}
