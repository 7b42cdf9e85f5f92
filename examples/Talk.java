// Answers a message of a user: what was said before is in the database, for whichever instance gets the next message.
//
//     java -cp postgresql.jar Talk.java ORG CHANNEL USER MESSAGE_ID TEXT
//
// A message that is delivered twice is answered once, and of two messages at once neither is lost. What to do when a call
// is refused or fails is in Ask.java, and why the database writes and reads the JSON.
import java.io.IOException;
import java.net.URI;
import java.net.http.*;
import java.sql.*;
import java.time.Duration;
import java.util.*;

public class Talk {
    static final String GET = """
        SELECT version, session, coalesce(state, '[]')::text AS state,
               coalesce(state, '[]') || jsonb_build_array(jsonb_build_object('role', 'user', 'content', ?::text)) AS messages
          FROM llmquota_session_get(?, ?, ?)""";
    static final String PUT = """
        SELECT status, version, coalesce(state, '[]')::text AS state
          FROM llmquota_session_put(?, ?, ?, ?::jsonb || ?::jsonb, version => ?)""";
    static final String PICK = """
        SELECT pick.*, jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens,
                   'messages', ?::jsonb) AS body
          FROM llmquota_pick('chat', org => ?, input_tokens => ?, max_output_tokens => 100, session => ?,
                             request_id => ?) AS pick""";
    static final String RECORD = """
        SELECT answer #>> '{choices,0,message,content}' AS content,
               jsonb_build_array(messages -> -1, answer #> '{choices,0,message}')::text AS said
          FROM (SELECT ?::jsonb AS answer, ?::jsonb AS messages) AS answered,
               llmquota_record(?, (answer #>> '{usage,prompt_tokens}')::bigint,
                   (answer #>> '{usage,completion_tokens}')::bigint, http_status => 200)""";
    static final String FAILED = "SELECT status FROM llmquota_record(?, http_status => ?::int, error => ?)";

    /** Runs a statement that answers one row. */
    static ResultSet row(Connection db, String sql, Object... values) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        statement.closeOnCompletion();
        for (int i = 0; i < values.length; i++)
            statement.setObject(i + 1, values[i]);
        ResultSet row = statement.executeQuery();
        row.next();
        return row;
    }

    static HttpRequest request(ResultSet pick) throws SQLException {
        return HttpRequest.newBuilder(URI.create(pick.getString("base_url") + "/chat/completions"))
            .header("Authorization", "Bearer " + System.getenv(pick.getString("secret_ref")))
            .header("Content-Type", "application/json").timeout(Duration.ofMillis(pick.getInt("timeout_ms")))
            .POST(HttpRequest.BodyPublishers.ofString(pick.getString("body"))).build();
    }

    /** The provider's answer; what went wrong is recorded. */
    static String call(Connection db, ResultSet pick) throws Exception {
        Integer status = null;
        String body;
        try {
            var reply = HttpClient.newHttpClient().send(request(pick), HttpResponse.BodyHandlers.ofString());
            status = reply.statusCode();
            body = reply.body();
        } catch (IOException error) {
            body = error.toString();
        }
        if (Objects.equals(status, 200))
            return body;
        row(db, FAILED, pick.getObject("lease"), status, body).close();
        throw new IOException(body);
    }

    static String answer(Connection db, String org, String channel, String user, String messageId, String text)
            throws Exception {
        ResultSet found = row(db, GET, text, org, channel, user);
        String messages = found.getString("messages");
        ResultSet pick = row(db, PICK, messages, org, messages.length() / 4 + 1, found.getString("session"), messageId);
        // in_flight and duplicate: another delivery of the message is, or was, answered
        if (!pick.getString("status").equals("granted"))
            throw new IllegalStateException("no answer: " + pick.getString("status") + ", " + pick.getString("refusal"));
        String body = call(db, pick);
        ResultSet done = row(db, RECORD, body, messages, pick.getObject("lease"));
        String said = done.getString("said");
        do {
            // with whatever others have put there meanwhile
            found = row(db, PUT, org, channel, user, found.getString("state"), said, found.getInt("version"));
        } while (found.getString("status").equals("conflict"));
        return done.getString("content");
    }

    // Autocommit is the default: no transaction stays open, and keeps others from the conversation, while the provider
    // works. prepareThreshold: see Ask.java.
    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        String url = String.format("jdbc:postgresql://%s:%s/%s?prepareThreshold=0",
            env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        try (Connection db = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            System.out.println(answer(db, args[0], args[1], args[2], args[3], args[4]));
        }
    }
}
