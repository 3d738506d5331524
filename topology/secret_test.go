package topology

import (
	"strings"
	"testing"
)

// TestMasked: what is printed of a plan, and what its copy for others holds, has
// no pre-shared key; the plan itself keeps it.
func TestMasked(t *testing.T) {
	secret := strings.Repeat("0123456789abcdef", 6)
	p := plan(t, "  network: {Backend: {Type: ipsec, PSK: "+secret+"}}\n")
	var json, yaml strings.Builder
	if err := WriteJSON(&json, p); err != nil {
		t.Fatal(err)
	}
	if err := WriteYAML(&yaml, p); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"JSON": json.String(), "YAML": yaml.String(), "a copy": p.Masked().Network.Backend.PSK} {
		if strings.Contains(text, secret) || !strings.Contains(text, hidden) {
			t.Errorf("%s: %s", what, text)
		}
	}
	if p.Network.Backend.PSK != secret {
		t.Errorf("the plan's own key is %q", p.Network.Backend.PSK)
	}
	if p := plan(t, "  {}\n"); p.Masked() != p {
		t.Error("a plan without a key was copied")
	}
}
