package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/internal/wholefile"
)

const (
	// KeyFile is where the node's private key is kept, base64, and KeyFileEnv
	// the variable that names another place; both are flannel's
	// (pkg/backend/wireguard/device.go).
	KeyFile    = "/run/flannel/wgkey"
	KeyFileEnv = "WIREGUARD_KEY_FILE"
)

// privateKey reads the node's key, or makes one. It is kept, so that sessions
// and peers outlive the agent.
func privateKey(path string) (wgtypes.Key, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	return key, err
}

// readKey reads the node's key. Its error wraps fs.ErrNotExist where there is
// none.
func readKey(path string) (wgtypes.Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read the node's private key: %w", err)
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	if err != nil || key == (wgtypes.Key{}) { // the error may show a part of the key
		return wgtypes.Key{}, fmt.Errorf("the node's private key, %s, is not 32 bytes in base64: put back what was there, or remove the file to have a new key made", path)
	}
	return clamp(key), nil
}

// clamp sets the bits that every Curve25519 private key has the same (RFC
// 7748, section 5), as a device does: only so can the two be compared.
func clamp(key wgtypes.Key) wgtypes.Key {
	key[0] &= 248
	key[31] = key[31]&127 | 64
	return key
}

// makeKey makes a key and writes it, all of it or nothing.
func makeKey(path string) (wgtypes.Key, error) {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return key, fmt.Errorf("make a private key: %w", err)
	}
	if err := writeKey(path, key); err != nil {
		return key, fmt.Errorf("keep the node's private key: %w", err)
	}
	return key, nil
}

func writeKey(path string, key wgtypes.Key) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return wholefile.Write(path, 0o400, func(f *os.File) error {
		_, err := f.WriteString(key.String())
		return errors.Join(err, f.Sync())
	})
}
