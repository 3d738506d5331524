package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certs are PEM files of a certificate authority and of what it has signed.
type Certs struct {
	// CA is the authority's certificate.
	CA string
	// ServerCert and ServerKey are the server's, for the address that it
	// listens at; ClientCert and ClientKey a client's.
	ServerCert, ServerKey, ClientCert, ClientKey string
}

// NewCerts makes an authority and lets it sign; host is the literal IP address
// of the server. The files go with the test.
func NewCerts(t testing.TB, host string) Certs {
	t.Helper()
	a := authority{TB: t, dir: t.TempDir()}
	a.template = x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	c := Certs{}
	c.CA, _ = a.sign("ca", &a.template)
	c.ServerCert, c.ServerKey = a.sign("server", &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.ParseIP(host)},
		// etcd's server is its own client for its HTTP gateway.
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	c.ClientCert, c.ClientKey = a.sign("client", &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "overlabd"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return c
}

// authority signs certificates; its own is the first that it signs.
type authority struct {
	testing.TB
	dir      string
	template x509.Certificate
	key      *ecdsa.PrivateKey
}

// sign makes a key and a certificate for an hour, and returns their files.
func (a *authority) sign(name string, c *x509.Certificate) (certFile, keyFile string) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	if a.key == nil {
		a.key = key
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	cert, err := x509.CreateCertificate(rand.Reader, c, &a.template, &key.PublicKey, a.key)
	if err != nil {
		a.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.Fatal(err)
	}
	return a.write(name+".pem", "CERTIFICATE", cert), a.write(name+"-key.pem", "PRIVATE KEY", raw)
}

func (a *authority) write(name, typ string, der []byte) string {
	a.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
		a.Fatal(err)
	}
	return path
}
