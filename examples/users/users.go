package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// handler serves the users of a table.
type handler struct {
	table *table
	delay time.Duration
}

// newHandler returns the service. A POST answers delay after it has written
// its user: the time in which a client, or what stands between, may give up.
func newHandler(t *table, delay time.Duration) http.Handler {
	h := &handler{table: t, delay: delay}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /users", h.create)
	mux.HandleFunc("GET /users", h.list)
	mux.HandleFunc("GET /users/{id}", h.show)
	mux.HandleFunc("PUT /users/{id}", h.replace)
	mux.HandleFunc("PATCH /users/{id}", h.change)
	mux.HandleFunc("DELETE /users/{id}", h.remove)
	return mux
}

// create makes a user. Sent twice, it makes two.
func (h *handler) create(w http.ResponseWriter, r *http.Request) {
	u, ok := readUser(w, r)
	if !ok {
		return
	}
	u, err := h.table.add(r.Context(), u)
	if err != nil {
		fail(w, r, err)
		return
	}
	if h.delay > 0 {
		select {
		case <-time.After(h.delay):
		case <-r.Context().Done():
		}
	}
	w.Header().Set("Location", fmt.Sprintf("/users/%d", u.ID))
	write(w, http.StatusCreated, u)
}

func (h *handler) list(w http.ResponseWriter, r *http.Request) {
	users, err := h.table.list(r.Context(), r.URL.Query().Get("email"))
	if err != nil {
		fail(w, r, err)
		return
	}
	write(w, http.StatusOK, users)
}

func (h *handler) show(w http.ResponseWriter, r *http.Request) {
	id, ok := userID(w, r)
	if !ok {
		return
	}
	u, err := h.table.get(r.Context(), id)
	answer(w, r, u, err)
}

// replace writes all of a user. Sent twice, it writes the same.
func (h *handler) replace(w http.ResponseWriter, r *http.Request) {
	id, ok := userID(w, r)
	if !ok {
		return
	}
	u, ok := readUser(w, r)
	if !ok {
		return
	}
	u.ID = id
	u, err := h.table.replace(r.Context(), u)
	answer(w, r, u, err)
}

// change takes {"age": 30}, which sent twice sets the same age, or
// {"age_add": 1}, which sent twice adds two.
func (h *handler) change(w http.ResponseWriter, r *http.Request) {
	id, ok := userID(w, r)
	if !ok {
		return
	}
	var c struct {
		Age    *int `json:"age"`
		AgeAdd *int `json:"age_add"`
	}
	if !read(w, r, &c) {
		return
	}
	var u user
	var err error
	switch {
	case (c.Age == nil) == (c.AgeAdd == nil):
		refuse(w, http.StatusBadRequest, `give either "age" or "age_add"`)
		return
	case c.Age != nil && *c.Age < 0:
		refuse(w, http.StatusBadRequest, `"age" must be 0 or more`)
		return
	case c.Age != nil:
		u, err = h.table.setAge(r.Context(), id, *c.Age)
	default:
		u, err = h.table.addAge(r.Context(), id, *c.AgeAdd)
	}
	answer(w, r, u, err)
}

// remove deletes a user. Sent twice, the user is as gone as before, though
// the second answer is 404.
func (h *handler) remove(w http.ResponseWriter, r *http.Request) {
	id, ok := userID(w, r)
	if !ok {
		return
	}
	if err := h.table.remove(r.Context(), id); err != nil {
		fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func userID(w http.ResponseWriter, r *http.Request) (int64, bool) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		refuse(w, http.StatusNotFound, "no such user")
		return 0, false
	}
	return id, true
}

func readUser(w http.ResponseWriter, r *http.Request) (user, bool) {
	var in struct {
		Name  string `json:"name"`
		Email string `json:"email"`
		Age   int    `json:"age"`
	}
	if !read(w, r, &in) {
		return user{}, false
	}
	if in.Name == "" || in.Email == "" || in.Age < 0 {
		refuse(w, http.StatusBadRequest, `"name" and "email" must not be empty, "age" must be 0 or more`)
		return user{}, false
	}
	return user{Name: in.Name, Email: in.Email, Age: in.Age}, true
}

// read decodes a body of exactly one JSON value, or refuses it.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return true
		}
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a body has at most %d bytes", large.Limit))
		return false
	}
	refuse(w, http.StatusBadRequest, "the body must be one JSON object of the members that the README names")
	return false
}

func answer(w http.ResponseWriter, r *http.Request, u user, err error) {
	if err != nil {
		fail(w, r, err)
		return
	}
	write(w, http.StatusOK, u)
}

// fail answers for an error of the table. Its text stays in the log.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errNoUser) {
		refuse(w, http.StatusNotFound, "no such user")
		return
	}
	slog.ErrorContext(r.Context(), "users: request", "method", r.Method, "error", err)
	refuse(w, http.StatusInternalServerError, "the users could not be read or written")
}

func refuse(w http.ResponseWriter, status int, text string) {
	write(w, status, map[string]string{"error": text})
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone is nothing to tell anybody about.
	_ = json.NewEncoder(w).Encode(v)
}
