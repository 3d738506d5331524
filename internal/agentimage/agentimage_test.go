package agentimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// staticProgram is the head of a program without a loader, and nothing else of
// it.
func staticProgram(t *testing.T) string {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestStatic: a program that needs a loader is refused; one that is built as
// `make build` builds it is taken.
func TestStatic(t *testing.T) {
	const dynamic = "/usr/bin/dash"
	if _, err := os.Stat(dynamic); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this machine has no %s: %v", dynamic, err)
	}
	self := staticProgram(t)
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"no agent":            {Options{Plugin: self}, "overlabd is neither beside overlab nor in PATH"},
		"no plugin":           {Options{Agent: self}, "overlab-cni is neither"},
		"linked dynamically":  {Options{Agent: dynamic, Plugin: self}, dynamic + " is linked dynamically"},
		"not a program":       {Options{Agent: "/etc/passwd", Plugin: self}, "read the program /etc/passwd"},
		"a program not there": {Options{Agent: "/nowhere", Plugin: self}, "read the program /nowhere"},
	} {
		dir := t.TempDir()
		err := WriteFile(filepath.Join(dir, "image.tar"), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: no %q in %v", name, c.want, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v (%v)", name, left, err)
		}
	}
	var out bytes.Buffer
	if err := Write(&out, Options{Agent: self, Plugin: self}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out.Bytes(), []byte(Name)) {
		t.Errorf("the image is not called %s", Name)
	}
}
