package topology

// hidden stands in a secret's place, as in what wg(8) prints.
const hidden = "(hidden)"

// Masked returns the plan for others to read: a copy whose pre-shared key is
// hidden, or the plan itself where there is none.
func (p *Plan) Masked() *Plan {
	if p.Network.Backend.PSK == "" {
		return p
	}
	v := *p
	v.Network.Backend.PSK = hidden
	return &v
}
