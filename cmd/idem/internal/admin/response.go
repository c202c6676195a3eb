package admin

import (
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

// stored makes a result of a response, as the middleware would have recorded
// it: without the headers that a replay never has.
func (r *response) stored() driver.Result {
	s := idemhttp.Stored{Status: r.Status, Header: r.Headers, Trailer: r.Trailer, Length: int64(len(r.Body))}
	if len(r.Trailer) > 0 {
		s.Length = -1 // trailers come only after a body without a declared length
	}
	return driver.Result{Meta: s.AppendMeta(nil), Body: r.Body}
}

// storedResponse reads a result; an error says that it is no response, or of a
// newer version.
func storedResponse(res driver.Result) (*response, error) {
	s, err := idemhttp.ParseStored(res.Meta)
	if err != nil {
		return nil, err
	}
	return &response{Status: s.Status, Headers: s.Header, Trailer: s.Trailer, Body: res.Body}, nil
}
