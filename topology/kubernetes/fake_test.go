package kubernetes

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// fake serves objects by their paths over plain HTTP, and can be made to refuse.
type fake struct {
	mu      sync.Mutex
	objects map[string]*unstructured.Unstructured
	version int
	// refuse, where set, may answer in the fake's place.
	refuse func(method, path string) *apierrors.StatusError
	// made is told of each object that is created, and may alter it.
	made func(path string, o *unstructured.Unstructured)
	log  []string
}

// newFake serves what it is given, each under its path with its name.
func newFake(t *testing.T, objects map[string][]runtime.Object) (*fake, *api) {
	t.Helper()
	f := &fake{objects: map[string]*unstructured.Unstructured{}}
	for path, list := range objects {
		for _, o := range list {
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
			if err != nil {
				t.Fatal(err)
			}
			u := &unstructured.Unstructured{Object: content}
			f.objects[path+"/"+u.GetName()] = u
		}
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	a, err := newAPI(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return f, a
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, r.Method+" "+r.URL.Path)
	if f.refuse != nil {
		if err := f.refuse(r.Method, r.URL.Path); err != nil {
			refused(w, err)
			return
		}
	}
	switch o := f.objects[r.URL.Path]; {
	case r.URL.Path == "/version":
		answer(w, map[string]any{"gitVersion": "v1.33.13"})
	case r.Method == http.MethodPost:
		f.create(w, r)
	case o == nil && r.Method == http.MethodGet && !f.isName(r.URL.Path):
		f.list(w, r)
	case r.Method == http.MethodDelete && !f.isName(r.URL.Path):
		maps.DeleteFunc(f.objects, func(path string, _ *unstructured.Unstructured) bool { return strings.HasPrefix(path, r.URL.Path+"/") })
		answer(w, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	case o == nil:
		refused(w, apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path))
	case r.Method == http.MethodDelete: // a namespace takes what is in it along
		maps.DeleteFunc(f.objects, func(path string, _ *unstructured.Unstructured) bool {
			return path == r.URL.Path || strings.Contains(path, "/namespaces/"+o.GetName()+"/")
		})
		answer(w, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
	case r.Method == http.MethodPut:
		f.put(w, r, r.URL.Path)
	default:
		answer(w, o)
	}
}

// isName reports whether a path is of one object.
func (f *fake) isName(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "api" {
		parts = parts[2:]
	} else {
		parts = parts[3:]
	}
	return len(parts)%2 == 0
}

func (f *fake) create(w http.ResponseWriter, r *http.Request) {
	var u unstructured.Unstructured
	if err := read(r, &u); err != nil {
		refused(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	if u.GetName() == "" {
		u.SetName(fmt.Sprintf("%s%d", u.GetGenerateName(), f.version))
	}
	path := r.URL.Path + "/" + u.GetName()
	if f.made != nil {
		f.made(path, &u)
	}
	f.keep(w, path, &u)
}

func (f *fake) put(w http.ResponseWriter, r *http.Request, path string) {
	var u unstructured.Unstructured
	if err := read(r, &u); err != nil {
		refused(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	f.keep(w, path, &u)
}

func (f *fake) keep(w http.ResponseWriter, path string, u *unstructured.Unstructured) {
	f.version++
	u.SetResourceVersion(fmt.Sprint(f.version))
	f.objects[path] = u
	answer(w, u)
}

func (f *fake) list(w http.ResponseWriter, r *http.Request) {
	// Objects of a kind in all namespaces are asked for without one.
	kind := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	items := []any{}
	for _, path := range slices.Sorted(maps.Keys(f.objects)) {
		dir := path[:strings.LastIndex(path, "/")]
		in := dir == r.URL.Path || strings.HasSuffix(dir, "/"+kind) && !strings.Contains(r.URL.Path, "/namespaces/") && kind != "namespaces"
		labels := f.objects[path].GetLabels()
		if selector := r.FormValue("labelSelector"); in && (selector == "" || labels[selector] != "") {
			items = append(items, f.objects[path].Object)
		}
	}
	kinds := map[string]string{
		"nodes": "NodeList", "namespaces": "NamespaceList", "pods": "PodList", "configmaps": "ConfigMapList", "daemonsets": "DaemonSetList",
	}
	version := "v1"
	if parts := strings.Split(r.URL.Path, "/"); parts[1] == "apis" {
		version = parts[2] + "/" + parts[3]
	}
	answer(w, map[string]any{"apiVersion": version, "kind": kinds[kind], "metadata": map[string]any{}, "items": items})
}

// paths are those of the objects that are there.
func (f *fake) paths() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.objects))
}

func read(r *http.Request, into any) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

func answer(w http.ResponseWriter, o any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(o) // who asked has gone, else
}

func refused(w http.ResponseWriter, err *apierrors.StatusError) {
	s := err.Status()
	s.APIVersion, s.Kind = "v1", "Status"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(s.Code))
	_ = json.NewEncoder(w).Encode(&s) // who asked has gone, else
}
