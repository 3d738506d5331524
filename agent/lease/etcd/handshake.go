package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// handshakeTimeout bounds one look at an endpoint.
const handshakeTimeout = time.Second

// handshakes says which endpoints refuse the certificates, or are refused for
// theirs. The client's own calls tell of neither: they wait until they may wait
// no longer.
func (s *Store) handshakes() error {
	if s.config.TLS == nil {
		return nil
	}
	var errs []error
	for _, e := range s.config.Endpoints {
		u, err := url.Parse(e)
		if err == nil && u.Scheme == "https" {
			errs = append(errs, handshake(u.Host, s.config.TLS))
		}
	}
	return errors.Join(errs...)
}

// handshake returns what is wrong with the certificates; nil also where nobody
// answers, which the caller knows already.
func handshake(address string, c *tls.Config) error {
	raw, err := net.DialTimeout("tcp", address, handshakeTimeout)
	if err != nil {
		return nil
	}
	c = c.Clone()
	c.NextProtos = []string{"h2"}
	if c.ServerName == "" {
		c.ServerName, _, _ = net.SplitHostPort(address) // it was dialled
	}
	conn := tls.Client(raw, c)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout)) // the socket is open
	if err = conn.Handshake(); err == nil {
		// In TLS 1.3 the server judges the client's certificate after its own
		// side is done; otherwise it begins to speak HTTP/2.
		_, err = conn.Read(make([]byte, 1))
	}
	var quiet net.Error
	if err == nil || errors.As(err, &quiet) && quiet.Timeout() {
		return nil
	}
	return fmt.Errorf("TLS with %s: %w; see --etcd-cafile, --etcd-certfile and --etcd-keyfile", address, err)
}
