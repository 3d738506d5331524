package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// modprobe loads every module of a name or alias, and what those need.
func modprobe(alias string) error {
	b, err := os.ReadFile(order.IndexFile)
	if err != nil {
		return err
	}
	index := map[string]order.Module{}
	if err := json.Unmarshal(b, &index); err != nil {
		return err
	}
	found := false
	var errs []error
	for name, m := range index {
		if matches(name, m, alias) {
			found = true
			errs = append(errs, load(index, name, map[string]bool{}))
		}
	}
	if !found {
		return fmt.Errorf("no module is called %s", alias)
	}
	return errors.Join(errs...)
}

// plain writes a name as the kernel compares it.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// matches reports whether the kernel means a module by an alias. Modules'
// aliases are shell patterns.
func matches(name string, m order.Module, alias string) bool {
	if plain(name) == plain(alias) {
		return true
	}
	for _, pattern := range m.Aliases {
		if ok, err := path.Match(plain(pattern), plain(alias)); err == nil && ok {
			return true
		}
	}
	return false
}

// load loads a module after those that it needs; seen are those that are being
// loaded.
func load(index map[string]order.Module, name string, seen map[string]bool) error {
	m, ok := index[name]
	if !ok || seen[name] {
		return nil // built in, or on its way
	}
	seen[name] = true
	for _, n := range m.Needs {
		for other, om := range index {
			if matches(other, om, n) {
				if err := load(index, other, seen); err != nil {
					return err
				}
			}
		}
	}
	f, err := os.Open(path.Join(order.Modules, name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load the module %s: %w", name, err)
	}
	return nil
}
