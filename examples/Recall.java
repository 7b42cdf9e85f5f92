// Asks a question that others may have asked before: whoever has a fresh answer makes no call.
//
//     java -cp postgresql.jar Recall.java ORG QUESTION
//
// Of all who find no fresh answer at once one makes the call. What to do when a call is refused or fails is in
// Ask.java, and why the database writes and reads the JSON.
import java.io.IOException;
import java.net.URI;
import java.net.http.*;
import java.sql.*;
import java.time.Duration;
import java.util.*;

public class Recall {
    static final String KEY = """
        SELECT llmquota_cache_key(jsonb_build_object('route', 'chat', 'messages', messages)) AS key, messages::text
          FROM (SELECT jsonb_build_array(jsonb_build_object('role', 'user', 'content', ?::text)) AS messages) AS a""";
    static final String GET = """
        SELECT status, refresh, retry_after_ms, answer ->> 'content' AS content
          FROM llmquota_cache_get('questions', ?, ?)""";
    static final String PUT = "SELECT status FROM llmquota_cache_put('questions', ?, ?::jsonb, org => ?)";
    static final String PICK = """
        SELECT pick.*, jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens,
                   'messages', ?::jsonb) AS body
          FROM llmquota_pick('chat', org => ?, input_tokens => ?, max_output_tokens => 100) AS pick""";
    static final String RECORD = """
        SELECT (answer #> '{choices,0,message}')::text AS said, answer #>> '{choices,0,message,content}' AS content
          FROM (SELECT ?::jsonb AS answer) AS answered,
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

    /** What the provider says, recorded; null when it says nothing. */
    static ResultSet call(Connection db, String org, String messages) throws Exception {
        ResultSet pick = row(db, PICK, messages, org, messages.length() / 4 + 1);
        if (!pick.getString("status").equals("granted"))
            return null;
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
            return row(db, RECORD, body, pick.getObject("lease"));
        row(db, FAILED, pick.getObject("lease"), status, body).close();
        return null;
    }

    static String recall(Connection db, String org, String question) throws Exception {
        ResultSet asked = row(db, KEY, question);
        String key = asked.getString("key");
        ResultSet found = row(db, GET, key, org);
        while (found.getString("status").equals("miss") && !found.getBoolean("refresh")) { // somebody else is asking it
            Thread.sleep(found.getInt("retry_after_ms"));
            found = row(db, GET, key, org);
        }
        if (!found.getBoolean("refresh"))
            return found.getString("content");
        ResultSet said = call(db, org, asked.getString("messages"));
        if (said == null && found.getString("status").equals("miss"))
            throw new IllegalStateException("no answer");
        if (said == null)
            return found.getString("content"); // the stale one is better than none
        row(db, PUT, key, said.getString("said"), org).close();
        return said.getString("content");
    }

    // Autocommit is the default: an answer is everybody's as soon as it is put. prepareThreshold: see Ask.java.
    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        String url = String.format("jdbc:postgresql://%s:%s/%s?prepareThreshold=0",
            env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        try (Connection db = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            System.out.println(recall(db, args[0], args[1]));
        }
    }
}
