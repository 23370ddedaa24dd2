/* http: see http.h. */
