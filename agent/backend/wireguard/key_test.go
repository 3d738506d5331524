package wireguard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// TestKeyIsKept: made once, readable by its owner alone, and then read.
func TestKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "flannel", "wgkey")
	first, err := privateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o400 || info.Size() != 44 {
		t.Errorf("the file is of mode %v and %d bytes", info.Mode(), info.Size())
	}
	again, err := privateKey(path)
	if err != nil || again != first || clamp(first) != first {
		t.Errorf("%v, then %v (%v)", first.PublicKey(), again.PublicKey(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v)", entries, err)
	}
}

// TestKeyOfAnother: what `wg genkey` or a person has put there.
func TestKeyOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wgkey")
	raw := wgtypes.Key{0: 255, 31: 255} // a device clamps it
	if err := os.WriteFile(path, []byte(raw.String()+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	key, err := privateKey(path)
	if err != nil || key != clamp(raw) || key.PublicKey() != raw.PublicKey() {
		t.Errorf("%v, public %v (%v)", key, key.PublicKey(), err)
	}
}

func TestKeyThatIsNone(t *testing.T) {
	for _, text := range []string{"", "secret", (wgtypes.Key{}).String()} {
		path := filepath.Join(t.TempDir(), "wgkey")
		if err := os.WriteFile(path, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
		_, err := privateKey(path)
		if err == nil || !strings.Contains(err.Error(), path+", is not 32 bytes in base64") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := privateKey("/proc/no/such/wgkey"); err == nil || !strings.Contains(err.Error(), "keep the node's private key: mkdir /proc/no") {
		t.Error(err)
	}
}
