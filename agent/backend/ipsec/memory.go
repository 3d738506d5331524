package ipsec

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/internal/wholefile"
)

// MemoryFile is where the memory lies, beside subnet.env, unless the variable
// MemoryFileEnv names another place. It must not outlive the kernel: /run does
// not.
const (
	MemoryFile    = "/run/flannel/ipsec.json"
	MemoryFileEnv = "IPSEC_MEMORY_FILE"
)

// memory is what the node must know of its own past: its nonce, and with which
// SPIs associations have been made of it. It holds no key.
type memory struct {
	path  string
	nonce []byte
	// made are the SPIs; one is noted before its association is made.
	made map[uint32]bool
	// written tells that the file says the same.
	written bool
}

// memoryFile is the file's content.
type memoryFile struct {
	Nonce []byte
	Made  []uint32
}

// recall reads the file; without one, or where nothing is there of what it
// speaks of, the node begins anew.
func (m *memory) recall(have datapath.State) {
	m.renew()
	text, err := os.ReadFile(m.path)
	var f memoryFile
	if err != nil || json.Unmarshal(text, &f) != nil || len(f.Nonce) != nonceLen {
		return
	}
	present := map[uint32]bool{}
	for sa := range have.SAs {
		present[sa.SPI] = true
	}
	if !slices.ContainsFunc(f.Made, func(spi uint32) bool { return present[spi] }) {
		return
	}
	m.nonce = f.Nonce
	for _, spi := range f.Made {
		m.made[spi] = true
	}
}

// renew takes another nonce, of which nothing was made yet.
func (m *memory) renew() {
	m.nonce, m.made, m.written = make([]byte, nonceLen), map[uint32]bool{}, false
	_, _ = rand.Read(m.nonce) // it never fails
}

// lost reports whether a wanted association was made before and is not there,
// or is there altered.
func (m *memory) lost(want, have datapath.State) bool {
	for sa := range want.SAs {
		if m.made[sa.SPI] && !have.SAs.Has(sa) {
			return true
		}
	}
	return false
}

// note writes down what is about to be made; nothing of a want that is no
// longer current.
func (m *memory) note(want datapath.State, current bool) error {
	if current {
		for sa := range want.SAs {
			m.written = m.written && m.made[sa.SPI]
			m.made[sa.SPI] = true
		}
	}
	if m.written || !current {
		return nil
	}
	f := memoryFile{Nonce: m.nonce}
	for spi := range m.made {
		f.Made = append(f.Made, spi)
	}
	slices.Sort(f.Made)
	if err := write(m.path, f); err != nil {
		return fmt.Errorf("keep what IPsec associations were made: %w", err)
	}
	m.written = true
	return nil
}

// write replaces the file in one step.
func write(path string, f memoryFile) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wholefile.WriteBytes(path, 0o600, text)
}
