package kubetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/rest"

	"github.com/overlab/overlab/internal/etcdtest"
)

const (
	adminToken = "admin-of-a-test"
	agentToken = "agent-of-a-test"
	// accounts is a file of static tokens: token, user, UID, groups.
	accounts = adminToken + ",admin,1,system:masters\n" + agentToken + ",agent,2,agents\n"
	// role are the verbs that the package comment of agent/lease/kube lists.
	role = `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"agent"},"rules":[
		{"apiGroups":[""],"resources":["nodes"],"verbs":["get","list","watch"]},
		{"apiGroups":[""],"resources":["nodes/status"],"verbs":["patch"]}]}`
	binding = `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"agent"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"agent"},
		"subjects":[{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"agents"}]}`
	// storage is the address of its etcd.
	storage = "127.0.0.1:12379"
	// nodesKey begins the keys of nodes in etcd.
	nodesKey = "/registry/minions/"
	// leash ends a program when the shell's input does: with the test, however
	// that ends.
	leash = `"$@" & read -r _; kill -9 $!; wait`
)

// kubeAPIServer is a kube-apiserver.
type kubeAPIServer struct {
	address, dir string
	binary       string
	etcd         *etcdtest.Server
	cmd          *exec.Cmd
	held         io.Closer // the leash's input
	log          bytes.Buffer
	ready        bool // whether the agents' role is there
}

func newKubeAPIServer(t testing.TB, address string) *kubeAPIServer {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED against a real kube-apiserver: %v", err)
	}
	k := &kubeAPIServer{address: address, dir: t.TempDir(), binary: path, etcd: etcdtest.Start(t, storage)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"accounts.csv": []byte(accounts),
		"sa.key":       pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}),
	} {
		if err := os.WriteFile(filepath.Join(k.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// account is how to reach the server with a token. Its certificate is its own.
func (k *kubeAPIServer) account(token string) *rest.Config {
	return &rest.Config{Host: "https://" + k.address, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func (k *kubeAPIServer) start(t testing.TB) {
	t.Helper()
	k.log.Reset()
	k.cmd = exec.Command("sh", "-c", leash, "sh", k.binary,
		"--etcd-servers=http://"+storage, "--bind-address="+host(k.address), "--advertise-address="+host(k.address),
		"--secure-port="+strconv.Itoa(int(netip.MustParseAddrPort(k.address).Port())), "--cert-dir="+k.dir,
		"--token-auth-file="+filepath.Join(k.dir, "accounts.csv"), "--authorization-mode=RBAC", "--anonymous-auth=false",
		"--service-account-issuer=https://issuer.invalid", "--service-account-key-file="+filepath.Join(k.dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(k.dir, "sa.key"), "--service-cluster-ip-range=10.96.0.0/16",
		"--endpoint-reconciler-type=none", "--profiling=false", "--enable-priority-and-fairness=false",
		"--shutdown-delay-duration=0s",
	)
	k.cmd.Stdout, k.cmd.Stderr = &k.log, &k.log
	var err error
	if k.held, err = k.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	k.await(t)
	t.Logf("kube-apiserver was ready after %v", time.Since(began).Round(time.Millisecond))
	if !k.ready {
		k.allow(t)
		k.ready = true
	}
}

// await polls /readyz.
func (k *kubeAPIServer) await(t testing.TB) {
	t.Helper()
	// The agents' tests reach it by an address that only exists here.
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	deadline := time.Now().Add(startTimeout)
	for {
		if k.answers(t, web) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("kube-apiserver is not ready within %v:\n%s", startTimeout, k.log.String())
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test has ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (k *kubeAPIServer) answers(t testing.TB, web *http.Client) bool {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+k.address+"/readyz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	answer, err := web.Do(r)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// allow makes the agents' role.
func (k *kubeAPIServer) allow(t testing.TB) {
	t.Helper()
	c := client(t, k.account(adminToken))
	for kind, object := range map[string]string{"clusterroles": role, "clusterrolebindings": binding} {
		err := c.Post().AbsPath("/apis/rbac.authorization.k8s.io/v1/"+kind).SetHeader("Content-Type", "application/json").
			Body([]byte(object)).Do(t.Context()).Error()
		if err != nil {
			t.Fatalf("make the agents' role: %v", err)
		}
	}
}

func (k *kubeAPIServer) stop() {
	if k.cmd == nil {
		return
	}
	_ = k.held.Close()
	_ = k.cmd.Wait() // it was killed
	k.cmd = nil
}

func (k *kubeAPIServer) lose(t testing.TB, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	r, err := k.etcd.Client.Delete(ctx, nodesKey+node)
	if err != nil || r.Deleted != 1 {
		t.Fatalf("delete %s in etcd: %d keys, %v", node, r.Deleted, err)
	}
	if _, err := k.etcd.Client.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}
