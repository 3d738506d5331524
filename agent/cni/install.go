package cni

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
func place(from, to string, mode os.FileMode) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// Runtimes pass over names that begin with a dot, and have no extension
	// that they know.
	half, err := os.CreateTemp(filepath.Dir(to), ".overlab-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(half.Name()))
		}
	}()
	_, err = io.Copy(half, source)
	if err == nil {
		err = half.Chmod(mode)
	}
	if err = errors.Join(err, half.Close()); err != nil {
		return err
	}
	return os.Rename(half.Name(), to)
}
