package ociimage

import (
	"debug/elf"
	"fmt"
	"slices"
)

// Static reports whether a program asks for no interpreter, which would load its
// libraries: in an image of it alone there are none.
func Static(file string) (bool, error) {
	f, err := elf.Open(file)
	if err != nil {
		return false, fmt.Errorf("read the program %s: %w", file, err)
	}
	defer f.Close() // it was only read
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}
